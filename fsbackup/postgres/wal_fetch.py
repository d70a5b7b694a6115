"""`fetch`: one WAL file out of an archive, as PostgreSQL's ``restore_command`` wants it.

PostgreSQL takes a file that is not there for the end of the WAL, and opens the database for writing. So *absent*
is said only of what is proven:

1. A quorum of the replicas answers that there is no such file (or a replica that the caller trusts alone).
2. Neither has any of them a later segment of that timeline, nor the ``.history`` of a timeline that branched off
   behind the file: then the file is a gap, and `WalGapError` says so. A missing ``.history`` file of a timeline
   that has segments is one, too.

Anything else is an error. Segments that several processes store at once make gaps that close by themselves, and an
outage may be short: within `patience` the archive is asked again.

What is fetched is proven block by block, and compared with what its name says, in a temp file beside the target;
it is renamed into place, or nothing is there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fsbackup.engine import head, restore
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import DownloadReport
from fsbackup.errors import (
    ConfigError,
    IntegrityError,
    NoHealthyReplicaError,
    ObjectLostError,
    ObjectNotFoundError,
    SourceError,
    WalGapError,
)
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, WalFile, find_wal, read_cluster
from fsbackup.postgres.segment import read_segment
from fsbackup.stages import Undo
from fsbackup.stages.undo import IdentityFiles
from fsbackup.wal import WalName, parse_history, parse_wal_name, wal_key

#: Seconds between two questions within the caller's patience.
_PAUSE = 0.5
#: What a file has behind its name until it is whole.
_UNFINISHED = ".fsbackup-fetch"


def fetch(
    archive: Archive,
    name: str,
    path: str | os.PathLike[str],
    *,
    trust: Sequence[str] = (),
    patience: float = 0.0,
    identity: IdentityFiles | None = None,
) -> DownloadReport:
    """Read one WAL file of the archive's cluster into a file, which appears whole or not at all.

    Parameters
    ----------
    archive
        Where from.
    name
        The file, such as ``000000010000000000000007`` or ``00000002.history``.
    path
        The file to write, in a directory that is there; a file that is there is replaced.
    trust
        Names of backends that prove an absence alone, when the others cannot be asked.
    patience
        Seconds within which to ask again where the file is missing among others, or nobody knows.
    identity
        The file of an age identity or a private SSH key, or several, for what is encrypted; by default the one
        that ``$FSBACKUP_AGE_IDENTITY`` names.

    Raises
    ------
    ObjectNotFoundError
        When it is proven that there is no such file, and nothing that could only follow it.
    WalGapError
        When there is no such file, and there are later ones.
    NoHealthyReplicaError, IntegrityError
        When too few replicas answer, or none has proven bytes of it.
    ConfigError
        When `trust` names a backend that the set does not have, the file's directory is not there, or there is no
        identity for what is encrypted.
    SourceError
        When `name` is not that of a WAL file.
    """
    wal = parse_wal_name(name)
    if wal is None:
        raise SourceError(f"{name!r} is no name of a WAL file", hint="restore_command asks for %f")
    if not (directory := Path(path).absolute().parent).is_dir():
        hint = "restore_command hands on %p, which is below the data directory"
        raise ConfigError(f"{directory} is no directory; {name} is not fetched", hint=hint)
    trusted, undo = archive.trusting(tuple(trust)), Undo(identity)
    return run(_fetch_patiently(archive, wal, Path(path), trusted, undo, patience))


async def _fetch_patiently(
    archive: Archive, wal: WalName, path: Path, trusted: ReplicaSet | None, undo: Undo, patience: float
) -> DownloadReport:
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while True:
        try:
            return await fetch_file(archive, wal, path, trusted, undo)
        except (WalGapError, NoHealthyReplicaError):
            if clock() + _PAUSE > deadline:
                raise
        await asyncio.sleep(_PAUSE)


async def fetch_file(
    archive: Archive, wal: WalName, path: Path, trusted: ReplicaSet | None = None, undo: Undo | None = None
) -> DownloadReport:
    """Fetch a file once; raises as `fetch`."""
    key = wal_key(archive.prefix, wal.text) + (archive.suffix if wal.kind in ("segment", "partial") else "")
    try:
        return await _download(archive, key, wal, path, undo)
    except ObjectLostError:
        raise
    except ObjectNotFoundError as error:
        other = await _find_other(archive.targets, archive, wal, key)
        if other is None:
            raise error
        return await _download(archive, other, wal, path, undo)
    except NoHealthyReplicaError as error:
        if trusted is None or await head.exists(trusted, key):
            raise
        other = await _find_other(trusted, archive, wal, key)
        if other is not None:
            return await _download(archive, other, wal, path, undo)
        raise ObjectNotFoundError(
            f"no such file on {', '.join(each.name for each in trusted.stores)}, which is trusted",
            operation="wal-fetch",
            key=key,
        ) from error


async def _download(archive: Archive, key: str, wal: WalName, path: Path, undo: Undo | None) -> DownloadReport:
    temp = path.with_name(path.name + _UNFINISHED)
    try:
        report = await restore.download(archive.targets, key, temp, undo=undo)
        await asyncio.to_thread(_check, temp, wal, report)
        os.replace(temp, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temp)
    return report


async def _find_other(targets: ReplicaSet, archive: Archive, wal: WalName, tried: str) -> str | None:
    """Return the key under which the file is, stored with other stages; None when it is nowhere, nor a later one.

    Raises
    ------
    WalGapError
        When there are segments that could only follow the file.
    """
    # The first timeline has no history; the others than segments are asked for by nobody who goes on from them.
    shows_gap = wal.kind == "segment" or (wal.kind == "history" and wal.timeline > 1)

    def is_wanted(found: WalFile) -> bool:
        is_same = found.name.text == wal.text and found.key != tried
        return is_same or (shows_gap and found.name.position > wal.position)

    found = await find_wal(targets, archive.prefix, is_wanted, begin=f"{wal.timeline:08X}")
    if found is not None and found.name.text == wal.text:
        return found.key
    later = found.name.text if found is not None else None
    if later is None and wal.kind == "segment":
        later = await _find_branch(targets, archive, wal)
    if later is None:
        return None
    raise WalGapError(
        f"{wal.text} is missing in the archive {archive.prefix!r}, and {later} is there: the WAL has a gap",
        operation="wal-fetch",
        key=tried,
        hint=f"`fsbackup pg-status {archive.name}` lists gaps; `fsbackup repair` brings back what any backend has",
    )


async def _find_branch(targets: ReplicaSet, archive: Archive, wal: WalName) -> str | None:
    """Return the ``.history`` of a timeline that left the one of a segment behind it: recovery has been there.

    Of the segment in which it left, the newer timeline has its own.

    Raises
    ------
    FsbackupError
        When it is not proven whether there is one.
    """
    timeline, cluster = wal.timeline, None
    while True:
        later = await find_wal(targets, archive.prefix, lambda _: True, after=f"{timeline:08X}~")
        if later is None:
            return None
        timeline = later.name.timeline
        history = f"{timeline:08X}.history"
        cluster = cluster or await read_cluster(archive)
        left = await _left_at(targets, wal_key(archive.prefix, history), wal.timeline)
        if cluster and left is not None and wal.start(cluster["segment_size"]) + cluster["segment_size"] <= left:
            return history


async def _left_at(targets: ReplicaSet, history: str, timeline: int) -> int | None:
    """Return the position (LSN) at which a timeline was left, None where the history does not say or is not there.

    Who asks for a history that is missing is told that, before anything of its timeline is asked for.
    """
    try:
        text = (await restore.read_range(targets, history, 0, None)).decode("utf-8", "replace")
        return dict(parse_history(text)).get(timeline)
    except ObjectLostError:
        raise
    except ObjectNotFoundError:
        return None
    except ValueError:
        raise IntegrityError("it is no history of a timeline", operation="wal-fetch", key=history) from None


def _check(file: Path, wal: WalName, report: DownloadReport) -> None:
    """Raise `IntegrityError` unless the file is what its name says."""
    problem = "" if report.verified else "it has no manifest on any backend, so that nothing proves its bytes"
    if not problem and wal.kind in ("segment", "partial"):
        try:
            read_segment(file, wal)
        except SourceError as error:
            problem = error.message
    if problem:
        raise IntegrityError(problem, operation="wal-fetch", key=report.key)
