"""`base_backup`: the data directory of a running cluster, streamed into its archive.

1. The server must be the cluster whose archive it is, and have no tablespaces: ``pg_basebackup`` writes no stream
   of a cluster that has.
2. ``pg_basebackup`` writes one tar, with ``backup_label`` and ``backup_manifest`` in it, which goes to all
   backends while it is written; only if the program exits with 0 is anything committed.
3. The WAL from its start to its end must be in the archive, confirmed; that is waited for. Then, last, its
   description is stored. What a crash leaves before that is an unfinished base backup, which nothing restores
   from, and which `prune` lets go once a later one is complete.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import re
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fsbackup import clock
from fsbackup.engine.command import Command, CommandSource
from fsbackup.engine.process import Process
from fsbackup.engine.results import BaseReport, Report, Status
from fsbackup.engine.source import Source
from fsbackup.errors import ConflictError, SourceError, TooFewCopiesError
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, read_cluster
from fsbackup.postgres.programs import SERVERS_LOG, archives, connection, in_english, run_program, tablespaces
from fsbackup.replication.walk import Walk
from fsbackup.wal import (
    WalName,
    base_key,
    description_key,
    format_lsn,
    parse_key,
    parse_lsn,
    segment_name,
    segment_number,
    stamp,
    wal_key,
)

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

#: In ``backup_manifest``, near the end of what pg_basebackup writes.
_RANGE = re.compile(
    rb'"Timeline": ([0-9]+), "Start-LSN": "([0-9A-F]+/[0-9A-F]+)", "End-LSN": "([0-9A-F]+/[0-9A-F]+)"'
)
#: The end of the output in which that is: behind it come a checksum and the padding of the tar.
_TAIL = 64 << 10
#: Seconds between two looks at whether the WAL has arrived.
_PAUSE = 1.0
#: Seconds that the WAL of a base backup is waited for by default.
WAIT = 600.0


@dataclass(frozen=True, slots=True)
class BaseBackupReport(BaseReport):
    """A base backup.

    Parameters
    ----------
    label
        Names it: the time at which it began.
    key, size
        Its data.
    system_identifier, timeline
        The cluster's.
    start, stop
        Positions (LSN) in the WAL, as PostgreSQL writes them.
    first, last
        The first and the last segment without which it is no use.
    stopped_at
        When it ended, ISO 8601 in UTC: the first moment to which it can be recovered.
    upload
        How its data was stored, backend by backend.
    """

    label: str
    key: str
    size: int
    system_identifier: str
    timeline: int
    start: str
    stop: str
    first: str
    last: str
    stopped_at: str
    upload: Report

    @property
    def status(self) -> Status:
        """``"complete"``, or ``"degraded"`` when not every backend has it."""
        return self.upload.status


class _BaseBackupSource(CommandSource):
    """The tar that pg_basebackup writes; keeps the end of it, and the time at which it was done."""

    ended_at = 0.0

    def __init__(self, command: Command, *, allow_empty: bool = False) -> None:
        super().__init__(command, allow_empty=allow_empty)
        self._pieces: deque[bytes] = deque()
        self._kept = 0

    @property
    def tail(self) -> bytes:
        """The last of what was read, `_TAIL` bytes or more."""
        return b"".join(self._pieces)

    def _read_piece(self, length: int) -> bytes:
        piece = super()._read_piece(length)
        self._pieces.append(piece)
        self._kept += len(piece)
        while self._kept - len(self._pieces[0]) >= _TAIL:
            self._kept -= len(self._pieces.popleft())
        return piece

    def _finish(self, process: Process) -> None:
        super()._finish(process)
        self.ended_at = clock.now()


class _BaseBackupCommand(Command):
    """Keeps its source, with what the program has said."""

    source: _BaseBackupSource | None = None

    def open_source(self, *, allow_empty: bool = False) -> Source:
        source = _BaseBackupSource(self, allow_empty=allow_empty)
        object.__setattr__(self, "source", source)
        return source


def base_backup(
    archive: Archive,
    *,
    conninfo: str | None = None,
    wait: float = WAIT,
    callback: Callback | None = None,
) -> BaseBackupReport:
    """Store a base backup of the archive's cluster, which must be running and archive its WAL.

    Parameters
    ----------
    archive
        Where to.
    conninfo
        How to connect, as libpq has it; a user with the right to replicate. None: by libpq's environment.
    wait
        Seconds to wait for the WAL that it needs, once it is stored.
    callback
        fsspec's, as in `ReplicatedStorage.replicate`.

    Raises
    ------
    SourceError
        When the server does not answer, is set up without archiving or has tablespaces, or ``pg_basebackup``
        fails. Nothing is stored then.
    ConflictError
        When the server is another cluster than the archive's, or nothing of it was ever archived.
    TooFewCopiesError
        When fewer than `min_copies` backends have it, or the WAL that it needs.
    """
    system, size = _identify(archive, conninfo)
    _refuse_tablespaces(conninfo)
    label = stamp(clock.now())
    command = _BaseBackupCommand(_arguments(conninfo, label), min_bytes=1 << 20, name="pg_basebackup")
    key, series = base_key(archive.prefix, label), f"{archive.prefix}/base"
    stages = archive.stages.for_new_name() if archive.stages is not None else None
    report = archive.store.replicate(command, key, series=series, stages=stages, callback=callback)
    if not report:
        raise report.failure()
    assert command.source is not None
    timeline, start, stop = _range(command.source)
    stopped = math.ceil(command.source.ended_at * 1000) / 1000
    first, last = segment_name(timeline, start, size), segment_name(timeline, max(start, stop - 1), size)
    run(_wait_for(archive, first, last, size, wait))
    result = BaseBackupReport(
        label=label,
        key=report.key,
        size=report.size or 0,
        system_identifier=system,
        timeline=timeline,
        start=format_lsn(start),
        stop=format_lsn(stop),
        first=first,
        last=last,
        stopped_at=datetime.fromtimestamp(stopped, UTC).isoformat(timespec="milliseconds"),
        upload=report,
    )
    _describe(archive, result, stopped)
    return result


def _arguments(conninfo: str | None, label: str) -> list[str]:
    return in_english(
        [
            "pg_basebackup",
            *connection(conninfo),
            *(
                "--pgdata=-",
                "--format=tar",
                "--wal-method=none",
                "--checkpoint=fast",
                "--no-password",
                "--verbose",
            ),
            f"--label=fsbackup {label}",
        ]
    )


def _identify(archive: Archive, conninfo: str | None) -> tuple[str, int]:
    """Return the system identifier and the segment size of the cluster, which is the archive's."""
    said = run_program("psql", *connection(conninfo, replication=True), "-wAtX", "-c", "IDENTIFY_SYSTEM")
    system = said.partition("|")[0].strip()
    known = run(read_cluster(archive))
    if known is None:
        raise ConflictError(
            f"nothing of the cluster {system} was ever archived, and a base backup is no use without its WAL",
            operation="base-backup",
            key=archive.prefix,
            hint=f"run `select pg_switch_wal()`; when that is not archived, {SERVERS_LOG}"
            if archives(conninfo)
            else "set archive_mode = on and archive_command to `fsbackup wal-push`, and run pg_switch_wal()",
        )
    if known.get("system_identifier") != system:
        raise ConflictError(
            f"the server is the cluster {system}, and the archive that of {known.get('system_identifier')}",
            operation="base-backup",
            key=archive.prefix,
            hint="check conninfo; a new cluster needs a prefix of its own",
        )
    return system, int(known["segment_size"])


def _refuse_tablespaces(conninfo: str | None) -> None:
    if found := tablespaces(conninfo):
        named = ", ".join(f"{name} ({place})" for name, place in found.items())
        raise SourceError(
            f"the cluster has tablespaces, of which pg_basebackup writes no stream: {named}; nothing was stored",
            hint="move what is in them (alter table ... set tablespace pg_default) and drop them; for more room, "
            "have the whole data directory on a larger disk",
        )


def _range(source: _BaseBackupSource) -> tuple[int, int, int]:
    """Return the timeline, and the positions between which the WAL is needed: the manifest at the end has them."""
    if "WAL archiving is not enabled" in source.stderr:
        raise SourceError(
            "the server does not archive its WAL, without which a base backup is no use; it is left unfinished",
            hint="set archive_mode = on and archive_command to `fsbackup wal-push`, and restart the server",
        )
    ranges = [
        (int(each[0]), *(parse_lsn(part.decode()) for part in each[1:])) for each in _RANGE.findall(source.tail)
    ]
    if not ranges:
        raise SourceError(
            "the output of pg_basebackup has no backup_manifest at its end; the base backup is left unfinished",
            hint="PostgreSQL 13 and later write one",
        )
    timeline, start, _ = min(ranges)
    return timeline, start, max(ranges)[2]


async def _wait_for(archive: Archive, first: str, last: str, size: int, seconds: float) -> None:
    """Wait until `min_copies` backends list each segment from `first` to `last`."""
    begin, end = (segment_number(name[8:], size) for name in (first, last))
    wanted = [segment_name(int(first[:8], 16), number * size, size) for number in range(begin, end + 1)]
    deadline = asyncio.get_running_loop().time() + seconds
    while missing := await _missing(archive, wanted):
        if asyncio.get_running_loop().time() > deadline:
            raise TooFewCopiesError(
                f"the base backup is stored, and the WAL that it needs is not in the archive after {seconds:g} s: "
                f"{missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; it is left unfinished",
                operation="base-backup",
                key=wal_key(archive.prefix, missing[0]),
                hint=f"look at pg_stat_archiver: when it counts failures, {SERVERS_LOG}",
            )
        await asyncio.sleep(_PAUSE)


async def _missing(archive: Archive, wanted: list[str]) -> list[str]:
    targets, found = archive.targets, set[str]()
    walk = Walk(targets.stores, f"{archive.prefix}/wal/")
    async with aclosing(walk.keys()) as keys:
        async for entry in keys:
            name = parse_key(archive.prefix, entry.key)
            copies = sum(listed is not None and listed.may_have_manifest for listed in entry.replicas.values())
            if isinstance(name, WalName) and name.kind == "segment" and copies >= targets.min_copies:
                found.add(name.segment)
    return [name for name in wanted if name not in found]


def _describe(archive: Archive, result: BaseBackupReport, stopped: float) -> None:
    fields = {name: value for name, value in result.as_dict().items() if name not in ("status", "upload")}
    data = json.dumps({"format": 1, **fields, "sha256": result.upload.sha256}, indent=1).encode() + b"\n"
    key = description_key(archive.prefix, result.label, stopped, result.first, result.last)
    if not (report := archive.store.replicate(io.BytesIO(data), key)):
        raise report.failure()
