"""`python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import __doc__ as about
from tests.benchmarks.arena import Arena, arena
from tests.benchmarks.away import away
from tests.benchmarks.large import lag, memory, upload
from tests.benchmarks.restore import restore
from tests.benchmarks.small import small
from tests.benchmarks.sources import size_of

Benchmark = Callable[[Arena, argparse.Namespace], tuple[str, dict[str, Any]]]

_BENCHMARKS: dict[str, Benchmark] = {
    "upload": lambda place, given: upload(place, given.size, given.rounds),
    "small": lambda place, given: small(place, given.rounds),
    "restore": lambda place, given: restore(place, given.size, given.rounds),
    "memory": lambda place, _: memory(place),
    "lag": lambda place, _: lag(place),
    "away": lambda place, _: away(place),
}


def main() -> None:
    """Run what is asked for, and print a table for each."""
    given = _arguments()
    found = {}
    for name in _BENCHMARKS if given.what == "all" else [given.what]:
        with arena() as place:
            text, found[name] = _BENCHMARKS[name](place, given)
        print(f"\n{text}\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="all", choices=[*_BENCHMARKS, "all"])
    parser.add_argument(
        "--size", type=size_of, default=size_of("512MiB"), help="of the file of `upload` and `restore`"
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over so many")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
