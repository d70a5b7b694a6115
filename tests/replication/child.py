"""An operation in a process of its own, to be killed at a step of the test's choosing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.replication.prune_helpers import prune_later
from tests.replication.rig import Places

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [__name__, "s3fs", "fsbackup.stores.local", "fsbackup.stores.s3", "tests.faults.preload"]
)

#: The exit code of an operation that Ctrl-C ended.
INTERRUPTED = 130


def _act(places: Places, action: str, key: str, source: Path | None, options: dict[str, Any]) -> None:
    store = places.store(**options)
    try:
        if action == "delete":
            store.remove(key)
        elif action == "repair":
            store.repair(key)
        elif action == "prune":
            prune_later(store)
        else:
            assert source is not None
            store.replicate(source, key, overwrite=action == "overwrite")
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


@contextmanager
def running(
    places: Places, action: str, key: str, source: Path | None = None, **options: Any
) -> Iterator[ForkServerProcess]:
    """Run ``create``, ``overwrite`` or another operation in a child that does not outlive the block.

    `options` are those of the set.
    """
    process = _CONTEXT.Process(target=_act, args=(places, action, key, source, options))
    process.start()
    try:
        yield process
    finally:
        kill(process)


def kill(process: ForkServerProcess) -> None:
    """End a child as kill -9 does."""
    process.kill()
    process.join()


def interrupt(process: ForkServerProcess) -> None:
    """Press Ctrl-C in a child."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
