"""`push`: one WAL file into an archive, as PostgreSQL's ``archive_command`` wants it.

The file is checked first: what is not the segment that its name says is never stored. Whose archive it is is
found out before anything is sent. A segment is one part, so that a bucket takes it, with its record, in one
request; it is created and never replaced, and the same content again is success with nothing sent: PostgreSQL
hands on a segment again when it crashed before it noted that the first time succeeded.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fsbackup.engine import upload
from fsbackup.engine.open_source import open_source
from fsbackup.engine.results import ReplicaResult, Report
from fsbackup.engine.source import Source
from fsbackup.errors import ConflictError, FsbackupError, SourceError, UnknownIdentityError
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, check_cluster
from fsbackup.postgres.secret import cluster_secret
from fsbackup.postgres.segment import SegmentHeader, read_segment
from fsbackup.sizing import MIB
from fsbackup.stages import Stages
from fsbackup.wal import WalName, parse_wal_name, wal_key

#: A segment up to this size is one part; the memory of a set holds one at least.
_ONE_PART = 64 * MIB


def push(archive: Archive, path: str | os.PathLike[str]) -> Report:
    """Store one WAL file of the archive's cluster.

    Parameters
    ----------
    archive
        Where to.
    path
        The file, under the name that PostgreSQL gave it: a segment, or a ``.history``, ``.backup`` or ``.partial``
        file.

    Returns
    -------
    Report
        True when at least `min_copies` backends have it, also when they had it before. Other content under the
        same name is a `ConflictError` in the report.

    Raises
    ------
    SourceError
        When the file has another name, cannot be read, or is not the segment that its name says.
    ConflictError
        When the archive is another cluster's.
    FsbackupError
        When nobody can tell whose archive it is.
    """
    name = parse_wal_name(Path(path).name)
    if name is None:
        raise SourceError(
            f"{Path(path).name}: this is no name of a WAL file; nothing was stored",
            hint="archive_command hands on %p: a segment, or a .history, .backup or .partial file",
        )
    return run(push_file(archive, name, path))


async def push_file(archive: Archive, name: WalName, path: str | os.PathLike[str]) -> Report:
    """As `push`, on the loop."""
    has_header = name.kind in ("segment", "partial")
    header = await asyncio.to_thread(read_segment, path, name) if has_header else None
    # The others say where timelines and base backups begin: few bytes, which `survey` reads without an identity.
    stages = await asyncio.to_thread(_keyed, archive.stages, header, path) if header is not None else None
    key = wal_key(archive.prefix, name.text) + (stages.suffix if stages else "")
    source = await asyncio.to_thread(open_source, path, stages=stages)
    try:
        if header is not None:
            await check_cluster(archive, header)
        size = os.stat(path).st_size
        report = await _upload(archive, key, source, stages.bound(size) if stages else size)
    finally:
        source.close()
    is_other = any(_is_other_content(each) for each in report.errors.values())
    return await _explained(archive, report, name, path) if is_other else report


def _keyed(stages: Stages | None, header: SegmentHeader, path: str | os.PathLike[str]) -> Stages | None:
    """Return the stages by which a segment is known for the same wherever a copy of its cluster is."""
    secret = None if stages is None else cluster_secret(path, header.system_identifier)
    return stages if stages is None or secret is None else stages.keyed(secret)


async def _upload(archive: Archive, key: str, source: Source, size: int) -> Report:
    """Upload a source that becomes at most `size` bytes."""
    targets = archive.targets
    if (targets.part_size or 0) < size <= min(_ONE_PART, targets.memory):
        targets = replace(targets, part_size=size)
    return await upload.upload(targets, key, source, overwrite=False, read_stored=True)


def _is_other_content(error: Exception | None) -> bool:
    """Tell whether an error says that the content is another one, and not that nobody can tell."""
    return isinstance(error, ConflictError) and not isinstance(error, UnknownIdentityError)


async def _explained(archive: Archive, report: Report, name: WalName, path: str | os.PathLike[str]) -> Report:
    """Return the report of a file of which the archive has other content, with an error that names both."""
    from fsbackup.replication.stat import stat

    there = ""
    with suppress(FsbackupError):
        stored = (await stat(archive.targets, report.key)).manifest
        there = f", stored {stored.created_at} by {stored.source.host}" if stored else ""

    def explain(result: ReplicaResult) -> ReplicaResult:
        if not _is_other_content(result.exception):
            return result
        error = ConflictError(
            f"the archive has other content under {name.text}{there}; {path} of {socket.gethostname()} is not "
            "stored",
            backend=result.backend,
            operation="wal-push",
            key=report.key,
            hint="two servers write one timeline: stop the one that was left behind, or give it a prefix of its "
            "own",
        )
        return replace(result, exception=error)

    return replace(report, replicas={backend: explain(each) for backend, each in report.replicas.items()})
