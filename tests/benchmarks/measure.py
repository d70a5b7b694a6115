"""Wall time, CPU time and peak memory of a contender's processes. Linux only: it reads /proc."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAMPLE_MS = 20


@dataclass(frozen=True)
class Command:
    """One process of a contender: what to run, what it reads on stdin, variables to set.

    One that `reports` prints a JSON object whose ``wall`` is the time of its work alone, without start and
    imports; the time of any other is that of the whole process.
    """

    argv: Sequence[str]
    stdin: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    reports: bool = False


@dataclass(frozen=True)
class Cost:
    """What a contender's processes cost together.

    Parameters
    ----------
    wall
        Seconds to the end of the last one.
    cpu
        User and system seconds of all, start and imports included.
    rss
        Each one's own peak of resident memory in MiB, added up.
    said
        What a reporting process reported.
    """

    wall: float
    cpu: float
    rss: float
    said: Mapping[str, Any] = field(default_factory=dict)


class FailedError(RuntimeError):
    """A contender's process failed; the message is what it printed."""


def run(commands: Sequence[Command], scratch: Path) -> Cost:
    """Run `commands` side by side to their ends."""
    os.sync()  # what an earlier contender left to be written is not this one's burden
    logs = [scratch / f"process-{number}" for number in range(len(commands))]
    with ThreadPoolExecutor(len(commands)) as pool:
        costs = list(pool.map(_run_one, commands, logs))
    return Cost(
        wall=max(cost.wall for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        rss=sum(cost.rss for cost in costs),
        said={key: value for cost in costs for key, value in cost.said.items()},
    )


def _run_one(command: Command, log: Path) -> Cost:
    output, errors = log.with_suffix(".out"), log.with_suffix(".err")
    given = log.with_suffix(".in")
    given.write_text(command.stdin)
    with given.open() as stdin, output.open("w") as stdout, errors.open("w") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(
            command.argv, stdin=stdin, stdout=stdout, stderr=stderr, env={**os.environ, **command.env}
        )
        peak, usage = _watch(process)
    wall = time.monotonic() - started
    if process.returncode:
        raise FailedError(f"{command.argv[:4]}: {errors.read_text()[-4000:]}{output.read_text()[-1000:]}")
    said = json.loads(output.read_text().splitlines()[-1]) if command.reports else {}
    return Cost(said.get("wall", wall), usage, peak / 1024, said)


def _watch(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Wait for the process; return its peak memory in KiB and its CPU seconds.

    The peak is sampled from /proc: the kernel's own ``ru_maxrss`` begins with the memory of whoever started
    the process.
    """
    peak = 0
    handle = os.pidfd_open(process.pid)
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    try:
        while not waiting.poll(_SAMPLE_MS):
            peak = max(peak, _peak_of(process.pid))
    finally:
        os.close(handle)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return peak, usage.ru_utime + usage.ru_stime


def _peak_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
