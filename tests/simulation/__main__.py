"""Hunts for violations over many seeds, or shows what one seed does.

``python -m tests.simulation --seeds 0:10000`` prints each kind of violation with its number and its shortest case;
``python -m tests.simulation --seeds 17`` prints that case's whole trace.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.case import case_of
from tests.simulation.known import KNOWN
from tests.simulation.run import Result, run_case

_BATCH = 100

#: Kind and operations, length of the trace, and seed.
Finding = tuple[str, str, int, int]


def find(seeds: list[int]) -> list[Finding]:
    """Run some seeds, and return what they violate."""
    return [each for seed in seeds for each in _findings(run_case(case_of(seed)))]


def _findings(result: Result) -> Iterator[Finding]:
    verbs = " + ".join(sorted(result.case.verbs))
    for violation in result.violations:
        yield violation.kind, verbs, len(result.events), result.case.seed


def hunt(first: int, end: int, jobs: int) -> None:
    """Run all seeds from `first` up to `end`, and print what they violate, by kind."""
    started = time.monotonic()
    found: dict[str, list[Finding]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for findings in pool.map(find, [list(each) for each in _batches(first, end)]):
            for finding in findings:
                found.setdefault(finding[0], []).append(finding)
    seconds = time.monotonic() - started
    print(f"{end - first} cases in {seconds:.0f} s, {(end - first) / seconds:.0f} per second")
    for kind in sorted(found):
        _print_kind(kind, found[kind])


def _batches(first: int, end: int) -> Iterator[range]:
    for start in range(first, end, _BATCH):
        yield range(start, min(start + _BATCH, end))


def _print_kind(kind: str, findings: list[Finding]) -> None:
    known = KNOWN.get(kind)
    print(f"\n{len(findings)} times {kind}: {f'known: {known}' if known else 'NOT KNOWN'}")
    for verbs, count in Counter(each[1] for each in findings).most_common():
        length, seed = min((each[2], each[3]) for each in findings if each[1] == verbs)
        print(f"    {count:5} {verbs}: seed {seed} ({length} steps)")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", required=True, help="FIRST:END, or one seed to show its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per processor)")
    parser.add_argument("--brief", action="store_true", help="show only the steps that change a store")
    arguments = parser.parse_args()
    first, _, end = arguments.seeds.partition(":")
    if end:
        hunt(int(first), int(end), arguments.jobs)
    else:
        print(run_case(case_of(int(first))).describe(brief=arguments.brief))


if __name__ == "__main__":
    main()
