"""The worker behind ``wal-fetch`` with a `spool`: it fetches the segments that recovery will ask for next.

Recovery asks for one segment after the other. The first call starts this worker (`ensure`), which keeps
the next ones in ``fetch/`` below the spool: each whole and proven under a temp name before it gets its own, and
locked by the worker, which so vouches for it (`spooled`). A call takes one only while it is locked, and unchanged;
then it is gone from there. For one that is being fetched (``NAME.busy``) it waits,
and while the worker starts: meanwhile it could only start the same a second time.

Only segments are kept, never that one is absent: what the worker does not have, a call asks the backends for
itself. The worker begins with an empty directory, and ends at the first segment that it cannot fetch, or when
nobody has taken one for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

from fsbackup.aio import cancel_and_wait
from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.postgres import background, spooled
from fsbackup.postgres.archive import Archive, read_cluster
from fsbackup.postgres.wal_fetch import fetch_file
from fsbackup.stages import Undo
from fsbackup.wal import WalName, parse_wal_name, segment_name

log = logging.getLogger("fsbackup.postgres")

_ASKED = "asked"
#: What a worker finds when it starts, and keeps.
_OF_A_WORKER = frozenset({background.LOG, spooled.LOCK, spooled.STARTING, _ASKED})
#: Seconds without a segment taken after which it ends, and between two looks.
IDLE, _TICK = 30.0, 0.05


def ensure(archive: Archive, spool: Path, config: str, name: WalName, ahead: int, identity: str | None) -> None:
    """Start the worker, with the segment after `name`, unless there is one.

    Raises
    ------
    OSError
        When the spool cannot be made or written.
    """
    place = spool / "fetch"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    spooled.write_note(config, archive.name, str(spool), archive.identity)
    (place / _ASKED).write_text(name.text)
    if not spooled.is_locked(str(place)):
        key = os.path.abspath(identity) if identity else None
        background.start(partial(_run, archive, place.absolute(), name, ahead, key), place, announce=True)


def clear(archive: Archive) -> None:
    """End the worker that fetches ahead from an archive, and remove what it has kept: it was for another restore.

    What cannot be removed is logged. It has no effect: nothing is believed that no living worker keeps.
    """
    place = archive.spool / "fetch" if archive.spool is not None else None
    try:
        if place is not None and place.is_dir():
            background.stop(place)
            _clear(place, but={background.LOG, spooled.LOCK})
    except OSError as error:
        why = f"{error.filename or place}: {error.strerror}"
        log.warning("spool: %s: what was fetched ahead for another restore stays there", why)


async def prefetch(
    archive: Archive, place: Path, last: WalName, ahead: int, *, undo: Undo | None = None, idle: float = IDLE
) -> None:
    """Keep the `ahead` segments after `last` in a directory, and those after them as they are taken."""
    cluster = await read_cluster(archive)
    if cluster is None:
        return
    _clear(place)
    keeper = _Keeper(archive, place, last, int(cluster["segment_size"]), undo)
    try:
        await keeper.run(ahead, idle)
    finally:
        await keeper.close()


class _Keeper:
    """Fetches half of what is to be kept at once, as long as there are segments."""

    def __init__(self, archive: Archive, place: Path, last: WalName, size: int, undo: Undo | None) -> None:
        self._archive, self._place, self._undo = archive, place, undo
        self._timeline, self._size, self._start = last.timeline, size, last.start(size)
        #: The locks that vouch for the segments that are there; and the fetches that are under way.
        self._kept: dict[str, int] = {}
        self.tasks: dict[str, asyncio.Task[int]] = {}
        self._is_at_end = False

    async def run(self, ahead: int, idle: float) -> None:
        clock = asyncio.get_running_loop().time
        changed_at = clock()
        while clock() - changed_at < idle and (self._kept or self.tasks or not self._is_at_end):
            if self._let_go() + self._harvest() or self.tasks:
                changed_at = clock()
            is_wanted = not self._is_at_end and len(self._kept) + len(self.tasks) < ahead
            if is_wanted and len(self.tasks) < (ahead + 1) // 2:
                self._fetch_next()
            elif self.tasks:
                await asyncio.wait(self.tasks.values(), timeout=_TICK, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(_TICK)

    def _let_go(self) -> int:
        """Forget what was taken, and what recovery has passed; return how many."""
        asked = _asked(self._place, self._timeline, self._size)
        self._start = max(self._start, asked)
        gone = [each for each in self._kept if self._start_of(each) <= asked or not (self._place / each).exists()]
        for name in gone:
            os.close(self._kept.pop(name))
            (self._place / name).unlink(missing_ok=True)
        return len(gone)

    def _harvest(self) -> int:
        """Keep what has been fetched; at the first one that cannot be, nothing more is begun."""
        done = [(name, task) for name, task in self.tasks.items() if task.done()]
        for name, task in done:
            del self.tasks[name]
            if (error := task.exception()) is None:
                self._kept[name] = task.result()
            elif isinstance(error, (FsbackupError, OSError)):
                log.warning("%s is not fetched ahead: %s", name, error)
                self._is_at_end = True
            else:
                raise error
        return len(done)

    def _fetch_next(self) -> None:
        self._start += self._size
        name = segment_name(self._timeline, self._start, self._size)
        (self._place / f"{name}{spooled.BUSY}").touch()
        (self._place / spooled.STARTING).unlink(missing_ok=True)
        self.tasks[name] = asyncio.create_task(self._keep(name))

    async def _keep(self, name: str) -> int:
        wal, temp = parse_wal_name(name), self._place / f"{name}.tmp"
        busy = self._place / f"{name}{spooled.BUSY}"
        assert wal is not None
        try:
            await fetch_file(self._archive, wal, temp, None, self._undo)
            return spooled.vouch(str(self._place), name, self._archive.identity)
        finally:
            busy.unlink(missing_ok=True)

    def _start_of(self, name: str) -> int:
        wal = parse_wal_name(name)
        return 0 if wal is None else wal.start(self._size)

    async def close(self) -> None:
        """End the fetches, and vouch for nothing any more."""
        await cancel_and_wait(list(self.tasks.values()))
        for lock in self._kept.values():
            os.close(lock)


def _asked(place: Path, timeline: int, size: int) -> int:
    """Return where the last segment begins that a call has fetched by itself: nobody asks for earlier ones."""
    with suppress(OSError):
        name = parse_wal_name((place / _ASKED).read_text())
        if name is not None and name.timeline == timeline:
            return name.start(size)
    return 0


def _clear(place: Path, but: Collection[str] = _OF_A_WORKER) -> None:
    for path in place.iterdir():
        if path.name not in but:
            path.unlink(missing_ok=True)


def _run(archive: Archive, place: Path, last: WalName, ahead: int, identity: str | None) -> None:
    try:
        with suppress(FsbackupError):
            run(prefetch(archive, place, last, ahead, undo=Undo(identity)))
    finally:
        _clear(place)  # what nobody took, as at the end of a timeline
