"""`fetch`: one WAL file out of an archive, as PostgreSQL's ``restore_command`` wants it.

PostgreSQL takes a file that is not there for the end of the WAL, and opens the database for writing. So *absent*
is said only of what is proven:

1. A quorum of the replicas answers that there is no such file (or a replica that the caller trusts alone).
2. Neither has any of them a later segment of that timeline: then the file is a gap, and `WalGapError` says so. A
   missing ``.history`` file of a timeline that has segments is one, too.

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
    IntegrityError,
    NoHealthyReplicaError,
    ObjectLostError,
    ObjectNotFoundError,
    SourceError,
    WalGapError,
)
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, first_wal
from fsbackup.postgres.segment import read_segment
from fsbackup.wal import WalName, parse_wal_name, wal_key

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
) -> DownloadReport:
    """Read one WAL file of the archive's cluster into a file, which appears whole or not at all.

    Parameters
    ----------
    archive
        Where from.
    name
        The file, such as ``000000010000000000000007`` or ``00000002.history``.
    path
        The file to write; one that is there is replaced.
    trust
        Names of backends that prove an absence alone, when the others cannot be asked.
    patience
        Seconds within which to ask again where the file is missing among others, or nobody knows.

    Raises
    ------
    ObjectNotFoundError
        When it is proven that there is no such file, and no later segment of its timeline.
    WalGapError
        When there is no such file, and there are later ones.
    NoHealthyReplicaError, IntegrityError
        When too few replicas answer, or none has proven bytes of it.
    ConfigError
        When `trust` names a backend that the set does not have.
    SourceError
        When `name` is not that of a WAL file.
    """
    wal = parse_wal_name(name)
    if wal is None:
        raise SourceError(f"{name!r} is no name of a WAL file", hint="restore_command asks for %f")
    return run(_fetch_patiently(archive, wal, Path(path), archive.trusting(tuple(trust)), patience))


async def _fetch_patiently(
    archive: Archive, wal: WalName, path: Path, trusted: ReplicaSet | None, patience: float
) -> DownloadReport:
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience
    while True:
        try:
            return await fetch_file(archive, wal, path, trusted)
        except (WalGapError, NoHealthyReplicaError):
            if clock() + _PAUSE > deadline:
                raise
        await asyncio.sleep(_PAUSE)


async def fetch_file(
    archive: Archive, wal: WalName, path: Path, trusted: ReplicaSet | None = None
) -> DownloadReport:
    """Fetch a file once; raises as `fetch`."""
    temp = path.with_name(path.name + _UNFINISHED)
    try:
        report = await restore.download(archive.targets, wal_key(archive.prefix, wal.text), temp)
        await asyncio.to_thread(_check, temp, wal, report)
        os.replace(temp, path)
        return report
    except ObjectLostError:
        raise
    except ObjectNotFoundError as error:
        await _refuse_gap(archive.targets, archive, wal)
        raise error
    except NoHealthyReplicaError as error:
        if trusted is None or not await _is_absent(archive, wal, trusted):
            raise
        raise ObjectNotFoundError(
            f"no such file on {', '.join(each.name for each in trusted.stores)}, which is trusted",
            operation="wal-fetch",
            key=error.key,
        ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temp)


async def _is_absent(archive: Archive, wal: WalName, trusted: ReplicaSet) -> bool:
    """Return whether the trusted replicas alone answer that there is neither the file nor a later one."""
    if await head.exists(trusted, wal_key(archive.prefix, wal.text)):
        return False
    await _refuse_gap(trusted, archive, wal)
    return True


async def _refuse_gap(targets: ReplicaSet, archive: Archive, wal: WalName) -> None:
    """Raise `WalGapError` when there are segments that could only follow the file, which is not there."""
    if wal.kind not in ("segment", "history") or (wal.kind == "history" and wal.timeline == 1):
        return  # the first timeline has no history
    later = await first_wal(
        targets, archive.prefix, timeline=wal.timeline, after=wal if wal.kind != "history" else None
    )
    if later is not None:
        raise WalGapError(
            f"{wal.text} is missing in the archive {archive.prefix!r}, and {later.text} is there: the WAL has a "
            "gap",
            operation="wal-fetch",
            key=wal_key(archive.prefix, wal.text),
            hint=f"`fsbackup pg-status {archive.name}` lists gaps; `fsbackup repair` brings back what any backend "
            "has",
        )


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
