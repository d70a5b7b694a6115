"""Compression and encryption of one file, beside ``zstd | age``: what a core does, and the memory.

It is stored in memory (/dev/shm): how soon a disk has it is measured by `upload`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage

from tests.benchmarks.arena import Arena
from tests.benchmarks.measure import Command, run
from tests.benchmarks.results import Series, as_dict, ratio, table
from tests.benchmarks.rounds import show_progress
from tests.benchmarks.sources import dump_file, log_file, random_file

_PRACTICE = "zstd | age"


def stages(arena: Arena, size: int, count: int) -> tuple[str, dict[str, Any]]:
    """Compare both on a dump, on lines of a log, and on what nothing compresses."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    sources = {
        "dump": dump_file(arena.folder / "dump.sql", size),
        "log": log_file(arena.folder / "text.log", size),
        "random": random_file(arena.folder / "random.bin", size),
    }
    series: dict[str, Series] = {}
    for number in range(count):
        for kind, source in sources.items():
            with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
                contenders = _contenders(Path(place), source, recipient)
                for who in list(contenders)[:: 1 if number % 2 else -1]:
                    cost = run([contenders[who]], arena.folder)
                    series.setdefault(f"{kind}: {who}", Series(who)).costs.append(cost)
                    show_progress(f"{kind}: {who}: {cost.wall:.2f} s")
    rows = [_row(name, each, series, sources) for name, each in series.items()]
    head = ["", "MiB/s", f"x {_PRACTICE}", "MiB/s of CPU", "RSS MiB"]
    return table(f"stages: {size >> 20} MiB, compressed and encrypted, {count} rounds", head, rows), as_dict(
        series
    )


def _contenders(place: Path, source: Path, recipient: str) -> Mapping[str, Command]:
    config = place / "fsbackup.yaml"
    backends = {"disk": {"type": "local", "path": str(place / "disk")}}
    sets = {"one": {"backends": ["disk"], "min_copies": 1}}
    config.write_text(json.dumps({"version": 1, "backends": backends, "replication": sets}))
    put = ["put", str(source), "key", "--compress", "zstd", "--encrypt", recipient]
    program = str(Path(sys.executable).with_name("fsbackup"))
    pipe = 'zstd -3 -T1 -q -c "$0" | age -r "$1" > "$2"'
    return {
        "fsbackup put": Command([program, "-c", str(config), *put], env={"XDG_STATE_HOME": str(place / "state")}),
        _PRACTICE: Command(["sh", "-c", pipe, str(source), recipient, str(place / "piped")]),
    }


def _row(name: str, each: Series, series: Mapping[str, Series], sources: Mapping[str, Path]) -> list[str]:
    kind = name.partition(": ")[0]
    mib = sources[kind].stat().st_size / (1 << 20)
    compared = ratio(each, series[f"{kind}: {_PRACTICE}"])
    # The shell waits for the programs of the pipe, whose CPU is so counted; their memory is not.
    memory = "" if each.name == _PRACTICE else f"{each.rss:.0f}"
    return [name, f"{mib / each.wall:.0f}", compared, f"{mib / each.cpu:.0f}", memory]
