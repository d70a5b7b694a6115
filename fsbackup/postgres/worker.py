"""The worker behind ``wal-push`` with a `spool`: it archives ahead of PostgreSQL, which hands on one file at a
time.

PostgreSQL marks what is to be archived by ``archive_status/NAME.ready``, and calls archive_command for one after
the other. The first call starts this worker (`ensure`), which sends several at once over connections that stay
open. For each that is confirmed it leaves ``NAME.ok`` (`spooled`), and while it sends one, ``NAME.busy``.

- One worker a cluster: `flock` on ``worker.lock`` is held for it. The lock goes with the process, so that a dead
  worker is noticed by the next call, which starts another one; what it left busy is then of no effect.
- A call that finds no word of its file waits while the worker is sending it, or else sends it itself. So whatever
  is wrong with the worker or the spool costs time, and the call says what is wrong with the archive itself.
- Nothing is ever confirmed that `min_copies` backends have not confirmed.

It ends when there has been nothing to do for a while, or the directory is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.postgres import background, spooled
from fsbackup.postgres.archive import Archive
from fsbackup.postgres.wal_push import push_file
from fsbackup.wal import WalName, parse_wal_name

log = logging.getLogger("fsbackup.postgres")

#: Seconds without work after which it ends; between two looks at what is to be done; before a file that failed is
#: tried again.
IDLE, _TICK, _RETRY = 30.0, 0.1, 5.0
#: Seconds after which a word that nobody has asked for is removed.
_OLD = 86_400.0


def ensure(archive: Archive, spool: Path, config: str, path: Path, workers: int) -> bool:
    """Start the worker of a cluster unless it runs; return whether it is sending just this file.

    Raises
    ------
    OSError
        When the spool cannot be made or written.
    """
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_room(spool / f"{path.name}.{os.getpid()}.tmp")
    spooled.write_note(config, archive.name, str(spool), archive.identity)
    if spooled.is_locked(str(spool)):
        return (spool / f"{path.name}{spooled.BUSY}").exists()
    wal = path.parent.absolute()
    background.start(partial(_run, archive, spool.absolute(), wal, workers, path.name), spool)
    return False


def _require_room(temp: Path) -> None:
    """Raise `OSError` where no word can be left: a worker could not say so, as its log is there, too."""
    try:
        temp.write_bytes(bytes(1024))
    finally:
        temp.unlink(missing_ok=True)


def wait_for(spool: Path, path: Path, archive: Archive) -> bool:
    """Wait while the worker sends a file; return whether it was confirmed."""
    spooled.wait_while_busy(str(spool), path.name)
    with suppress(OSError, ValueError):
        return spooled.take(str(spool), str(path), archive.identity)
    return False


class Worker:
    """Archives ahead.

    Parameters
    ----------
    archive, spool
        Where to, and where the word of it is left.
    wal
        PostgreSQL's ``pg_wal``.
    workers
        Files at once.
    first
        The file that the call which started it is sending itself.
    """

    def __init__(self, archive: Archive, spool: Path, wal: Path, workers: int, first: str = "") -> None:
        self._archive, self._spool, self._wal = archive, spool, wal
        self._workers = workers
        self._first = first
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: What it has confirmed, and PostgreSQL still has marked: its call may have used the word up just now.
        self._done: set[str] = set()
        #: When a file that failed may be tried again, by the loop's clock.
        self._later: dict[str, float] = {}

    async def run(self, idle: float = IDLE) -> None:
        """Work until there has been nothing to do for `idle` seconds."""
        clock = asyncio.get_running_loop().time
        self._clear()
        last = clock()
        while True:
            try:
                waiting = await asyncio.to_thread(self._waiting)
            except FileNotFoundError:
                break
            for name in waiting:
                if len(self._tasks) < self._workers and self._later.get(name.text, 0.0) <= clock():
                    self._tasks[name.text] = asyncio.create_task(self._send(name))
            if self._tasks:
                last = clock()
                await asyncio.wait(self._tasks.values(), timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
            elif clock() - last >= idle:
                break
            else:
                await asyncio.sleep(_TICK)
            self._tasks = {name: task for name, task in self._tasks.items() if not task.done()}

    def _clear(self) -> None:
        """Remove what a dead worker was sending, and words that nobody has asked for."""
        for path in self._spool.iterdir():
            is_old = path.suffix == ".ok" and time.time() - path.stat().st_mtime > _OLD
            if path.suffix in (spooled.BUSY, ".tmp") or is_old:
                path.unlink(missing_ok=True)

    def _waiting(self) -> list[WalName]:
        """Return what PostgreSQL wants archived and nobody has, in its own order: histories first."""
        ready = [each for each in os.listdir(self._wal / "archive_status") if each.endswith(".ready")]
        names = [parse_wal_name(each.removesuffix(".ready")) for each in ready]
        if self._first and f"{self._first}.ready" not in ready:
            self._first = ""
        self._done &= {each.removesuffix(".ready") for each in ready}
        return sorted(
            (
                name
                for name in names
                if name is not None
                and name.text not in (self._first, *self._tasks, *self._done)
                and not spooled.is_confirmed(str(self._spool), name.text)
            ),
            key=lambda name: (name.kind != "history", name.text),
        )

    async def _send(self, name: WalName) -> None:
        path, busy = self._wal / name.text, self._spool / f"{name.text}{spooled.BUSY}"
        try:
            busy.touch()
            content = await asyncio.to_thread(spooled.fingerprint, str(path))
            report = await push_file(self._archive, name, path)
            if report:
                spooled.confirm(str(self._spool), str(path), self._archive.identity, content)
                self._done.add(name.text)
                return
            error: Exception = report.failure()
        except (FsbackupError, OSError) as failure:
            error = failure
        finally:
            busy.unlink(missing_ok=True)
        # The call for this file will find out for itself, and tell PostgreSQL.
        log.warning("%s is not archived yet: %s", name.text, error)
        self._later[name.text] = asyncio.get_running_loop().time() + _RETRY


def _run(archive: Archive, spool: Path, wal: Path, workers: int, first: str) -> None:
    run(Worker(archive, spool, wal, workers, first).run())
