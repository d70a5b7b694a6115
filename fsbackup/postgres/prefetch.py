"""The worker behind ``wal-fetch`` with a `spool`: it fetches the segments that recovery will ask for next.

Recovery asks for one segment after the other. The first that is fetched starts this worker (`ensure`), which keeps
the next ones in ``fetch/`` below the spool: each whole and proven, under a temp name, with ``NAME.json`` (size,
SHA-256, archive) beside it before it gets its own name. A call takes one only while the worker lives, and compares
its bytes; then it is gone from there.

Only segments are kept, never that one is absent: what the worker does not have, a call asks the backends for
itself. The worker begins with an empty directory, and ends at the first segment that it cannot fetch, or when
nobody has taken one for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from fsbackup.errors import FsbackupError
from fsbackup.loop import run
from fsbackup.postgres import background, spooled
from fsbackup.postgres.archive import Archive, read_cluster
from fsbackup.postgres.wal_fetch import fetch_file
from fsbackup.postgres.worker import archive_id
from fsbackup.stages import Undo
from fsbackup.wal import WalName, parse_wal_name, segment_name

log = logging.getLogger("fsbackup.postgres")

_ASKED = "asked"
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
    spooled.write_note(config, archive.name, str(spool), archive_id(archive))
    (place / _ASKED).write_text(name.text)
    if not spooled.is_locked(str(place)):
        key = os.path.abspath(identity) if identity else ""
        background.start(__name__, place, config, archive.name, str(place), name.text, str(ahead), key)


async def prefetch(
    archive: Archive, place: Path, last: WalName, ahead: int, *, undo: Undo | None = None, idle: float = IDLE
) -> None:
    """Keep the `ahead` segments after `last` in a directory, and those after them as they are taken."""
    cluster = await read_cluster(archive)
    if cluster is None:
        return
    size, clock = int(cluster["segment_size"]), asyncio.get_running_loop().time
    start, kept, changed_at, is_at_end = last.start(size), dict[str, int](), clock(), False
    _clear(place)
    while clock() - changed_at < idle and (kept or not is_at_end):
        asked = _asked(place, last.timeline, size)
        start = max(start, asked)
        still = {name: at for name, at in kept.items() if at > asked and (place / name).exists()}
        for name in kept.keys() - still.keys():
            (place / name).unlink(missing_ok=True)
            changed_at = clock()
        kept = still
        if is_at_end or len(kept) >= ahead:
            await asyncio.sleep(_TICK)
            continue
        start += size
        name = segment_name(last.timeline, start, size)
        try:
            await _keep(archive, place, name, undo)
        except (FsbackupError, OSError) as error:
            log.warning("%s is not fetched ahead: %s", name, error)
            is_at_end = True
        else:
            kept[name], changed_at = start, clock()


def _asked(place: Path, timeline: int, size: int) -> int:
    """Return where the last segment begins that a call has fetched by itself: nobody asks for earlier ones."""
    with suppress(OSError):
        name = parse_wal_name((place / _ASKED).read_text())
        if name is not None and name.timeline == timeline:
            return name.start(size)
    return 0


def _clear(place: Path) -> None:
    for path in place.iterdir():
        if path.name not in (background.LOG, _ASKED, spooled.LOCK):
            path.unlink(missing_ok=True)


async def _keep(archive: Archive, place: Path, name: str, undo: Undo | None) -> None:
    wal, temp = parse_wal_name(name), place / f"{name}.tmp"
    assert wal is not None
    await fetch_file(archive, wal, temp, None, undo)
    size, sha256 = await asyncio.to_thread(spooled.digest, str(temp))
    spooled.describe_segment(str(place), name, archive_id(archive), sha256, size)
    os.replace(temp, place / name)


def main(config: str, cluster: str, place: str, last: str, ahead: str, identity: str) -> None:
    """Run the worker of a cluster; end at once if there is one."""
    if not background.is_alone(place):
        return
    archive, name = Archive.from_config(config, cluster, reading=True), parse_wal_name(last)
    assert name is not None
    try:
        with suppress(FsbackupError):
            run(prefetch(archive, Path(place), name, int(ahead), undo=Undo(identity or None)))
    finally:
        _clear(Path(place))  # what nobody took, as at the end of a timeline


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(*sys.argv[1:])
