"""Wall time, CPU time and peak memory of a contender's processes. Linux only: it reads /proc."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SAMPLE = 0.02


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
        Each one's own peak resident memory in MiB, added up.
    said
        What a reporting process reported.
    """

    wall: float
    cpu: float
    rss: float
    said: Mapping[str, Any]


class FailedError(RuntimeError):
    """A contender's process failed."""


def run(commands: Sequence[Command], scratch: Path) -> Cost:
    """Run `commands` side by side to their ends."""
    os.sync()  # what an earlier contender left to be written is not this one's burden
    started = time.monotonic()
    running = [_Process(command, scratch / f"{number}") for number, command in enumerate(commands)]
    for process in running:
        process.watch(started)
    said = {key: value for process in running for key, value in process.said.items()}
    wall = said.get("wall", max(process.wall for process in running))
    return Cost(wall, sum(each.cpu for each in running), sum(each.peak for each in running) / 1024, said)


class _Process:
    """One process, whose memory is sampled from its start in a thread-free way: all are polled together."""

    _all: list[_Process] = []  # noqa: RUF012

    def __init__(self, command: Command, log: Path) -> None:
        self.wall = self.cpu = 0.0
        self.peak = 0
        self.said: dict[str, Any] = {}
        self._command = command
        self._log = log
