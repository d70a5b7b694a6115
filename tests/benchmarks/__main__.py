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
from tests.benchmarks.base import base
from tests.benchmarks.contenders import READS
from tests.benchmarks.filesystem import filesystem
from tests.benchmarks.large import lag, memory, upload
from tests.benchmarks.restore import restore
from tests.benchmarks.small import small
from tests.benchmarks.sources import size_of
from tests.benchmarks.stages import stages
from tests.benchmarks.wal import wal

Benchmark = Callable[[Arena, argparse.Namespace], tuple[str, dict[str, Any]]]

#: Of the file of `upload` and `restore`, and of the Parquet file of `filesystem`.
_SIZE, _TABLE = size_of("512MiB"), size_of("1GiB")

_BENCHMARKS: dict[str, Benchmark] = {
    "upload": lambda place, given: upload(place, given.size or _SIZE, given.rounds),
    "small": lambda place, given: small(place, given.rounds),
    "restore": lambda place, given: restore(place, given.size or _SIZE, given.rounds),
    "filesystem": lambda place, given: filesystem(
        place, given.size or _TABLE, given.rounds, given.ranges, given.reads or READS
    ),
    "memory": lambda place, _: memory(place),
    "lag": lambda place, _: lag(place),
    "away": lambda place, _: away(place),
    "wal": lambda place, given: wal(place, given.rounds),
    "stages": lambda place, given: stages(place, given.size or _SIZE, given.rounds),
    "base": lambda place, given: base(place, given.size or _SIZE, given.rounds),
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
        "--size",
        type=size_of,
        help="of the file of `upload`, `restore` and `stages` and the data of `base` (512MiB), of the Parquet "
        "file of `filesystem` (1GiB)",
    )
    parser.add_argument("--ranges", type=int, default=10_000, help="that `filesystem` reads at random")
    parser.add_argument("--reads", nargs="+", choices=READS, help="of `filesystem`, all by default")
    parser.add_argument("--rounds", type=int, default=3, help="medians are taken over so many")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
