"""One run of a Python contender in a process of its own: `python -m tests.benchmarks.worker MODULE FUNCTION`.

Reads the task on stdin. Prints how long the function took and its CPU seconds, the module's imports not
included, and what it returned.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module

from tests.benchmarks import task
from tests.benchmarks.measure import Command

_PACKAGE = "tests.benchmarks.clients"


def command(module: str, function: str, given: task.Task) -> Command:
    """Return the command that runs a function of a module of `clients` on a task."""
    argv = [sys.executable, "-m", __name__, f"{_PACKAGE}.{module}", function]
    return Command(argv, stdin=given.dump(), reports=True)


def main() -> None:
    """Do it."""
    given = task.load(sys.stdin.read())
    function = getattr(import_module(sys.argv[1]), sys.argv[2])
    started, before = time.perf_counter(), time.process_time()
    said = function(given)
    spent = {"wall": time.perf_counter() - started, "work": time.process_time() - before}
    print(json.dumps({**spent, **(said or {})}))


if __name__ == "__main__":
    main()
