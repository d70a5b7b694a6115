"""`diagnose_cluster`: whether a server archives so that it can be relied on, and what to do where it does not."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from fsbackup.errors import ConfigError, FsbackupError, SourceError
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, read_cluster
from fsbackup.postgres.programs import SERVERS_LOG, connection, run_program
from fsbackup.replication.doctor import Check, Diagnosis
from fsbackup.replication.doctor.probe import Probe, ProbeResult
from fsbackup.stages import Stages

_PROGRAMS = ("psql", "pg_basebackup", "pg_verifybackup")
_QUERY = """select s.system_identifier, current_setting('server_version'), current_setting('archive_mode'),
current_setting('archive_command'), current_setting('archive_timeout'), current_setting('wal_level'),
a.archived_count, a.failed_count, coalesce(extract(epoch from now() - a.last_archived_time)::int::text, ''),
coalesce((a.last_failed_time > coalesce(a.last_archived_time, '-infinity'))::text, 'false')
from pg_control_system() s, pg_stat_archiver a"""
#: The longest archive_timeout that is not warned of, in seconds; and the least free space of a spool, in bytes.
_LONG, _LITTLE = 3600, 16 << 20


def diagnose_cluster(
    archive: Archive,
    *,
    conninfo: str | None = None,
    spool: str | None = None,
    prepare: Callable[[], Stages | None] | None = None,
) -> Diagnosis:
    """Find out whether a cluster's server archives as it should, and has what its commands take.

    On each backend a small object is written below the archive's prefix, read back and removed.

    Parameters
    ----------
    archive
        The cluster's.
    conninfo
        How to connect to the server, as libpq has it.
    spool
        Where its worker leaves what it has archived.
    prepare
        Makes ready what a push takes besides, its stages; a `ConfigError` is what a push would end with.

    Returns
    -------
    Diagnosis
        With the checks ``programs``, ``archive``, ``push``, ``identity key``, ``server``, ``archiving``,
        ``timeout`` and ``spool``, as far as they apply. A server that does not answer is ``"not known"``: it may
        be on another machine.
    """
    started = time.monotonic()
    checks = tuple(_checks(archive, conninfo, spool, prepare or (lambda: None)))
    return Diagnosis(archive.name, f"{archive.store.name}: {archive.prefix}/", checks, time.monotonic() - started)


def _checks(
    archive: Archive, conninfo: str | None, spool: str | None, prepare: Callable[[], Stages | None]
) -> Iterator[Check]:
    yield _programs()
    known = None
    try:
        known = run(read_cluster(archive))
        whose = f"of the cluster {known['system_identifier']}" if known else "empty"
        advice = None if known else "set archive_command (below), and run `select pg_switch_wal()`"
        yield Check("archive", "ok" if known else "warning", whose, advice)
    except FsbackupError as error:
        yield Check("archive", "failed", error.reason)
    try:
        stages = prepare()
    except ConfigError as error:
        yield Check("push", "failed", error.message, error.hint)
    else:
        yield _push(archive)
        yield from _identity_key(stages)
    try:
        fields = (
            run_program("psql", *connection(conninfo), "-wAtX", "-F", "\t", "-c", _QUERY).rstrip("\n").split("\t")
        )
    except SourceError as error:
        yield Check("server", "not known", error.message, "check conninfo, or run this on the server")
    else:
        yield from _server(archive, known["system_identifier"] if known else None, fields)
    if spool is not None:
        yield _spool(Path(spool))


def _push(archive: Archive) -> Check:
    """Write, read and remove an object on each backend, as `wal-push` would have to."""
    found = run(_try_all(archive))
    bad = [f"{name}: {each.problem.reason}" for name, each in found.items() if each.problem is not None]
    left = [f"{name}: {each.left_behind} cannot be removed" for name, each in found.items() if each.left_behind]
    if not bad and not left:
        return Check("push", "ok", f"written, read back and removed on {', '.join(found)}")
    if len(found) - len(bad) < archive.targets.min_copies:
        return Check("push", "failed", "; ".join(bad), "too few backends take segments: nothing is archived")
    advice = "segments go to the others only" if bad else "prune needs the right to delete; remove these by hand"
    return Check("push", "warning", "; ".join([*bad, *left]), advice)


def _identity_key(stages: Stages | None) -> Iterator[Check]:
    """Say why the host's own identity key cannot be had, without which the cluster's secret has to do."""
    try:
        _ = stages.key if stages is not None else None
    except ConfigError as error:
        yield Check("identity key", "warning", error.message, error.hint)


async def _try_all(archive: Archive) -> dict[str, ProbeResult]:
    stores = archive.targets.stores
    probes = (Probe(store, f"{archive.prefix}/doctor-").run_operations() for store in stores)
    return dict(zip((store.name for store in stores), await asyncio.gather(*probes), strict=True))


def _programs() -> Check:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return Check(
            "programs", "warning", f"not on the PATH: {', '.join(missing)}", "install PostgreSQL's programs"
        )
    return Check("programs", "ok", run_program("pg_basebackup", "--version").strip())


def _server(archive: Archive, known: str | None, fields: list[str]) -> Iterator[Check]:
    system, version, mode, command, timeout, level, archived, failed, ago, is_failing = fields
    if known is not None and known != system:
        yield Check(
            "server", "failed", f"it is the cluster {system}", "give it a prefix of its own, or check conninfo"
        )
    else:
        yield Check("server", "ok", f"PostgreSQL {version}, cluster {system}, wal_level {level}")
    yield _archiving(archive, mode, command, int(archived), int(failed), ago, is_failing == "true")
    seconds = _seconds(timeout)
    if seconds and seconds <= _LONG:
        yield Check("timeout", "ok", f"archive_timeout is {timeout}")
    else:
        advice = "set it to some minutes: by then a commit is in the archive, and can be a target"
        yield Check("timeout", "warning", f"archive_timeout is {timeout}", advice)


def _archiving(
    archive: Archive, mode: str, command: str, archived: int, failed: int, ago: str, is_failing: bool
) -> Check:
    right = f"archive_command = 'fsbackup -c FILE wal-push %p --cluster {archive.name}'"
    if mode == "off":
        return Check(
            "archiving", "failed", "archive_mode is off", f"set archive_mode = on and {right}, and restart it"
        )
    if not _pushes_to(archive.name, command):
        return Check("archiving", "failed", f"archive_command is {command!r}", f"set {right}, and reload it")
    if is_failing:
        return Check("archiving", "failed", f"the last try failed ({failed} so far)", SERVERS_LOG)
    last = f", the last one {ago} s ago" if ago else ""
    return Check("archiving", "ok", f"{archived} archived{last}")


def _pushes_to(name: str, command: str) -> bool:
    """Return whether an archive_command runs `wal-push` with the segment and the cluster, however it is quoted."""
    try:
        words = shlex.split(command.replace("=", " "))
    except ValueError:
        return False
    after = words[words.index("wal-push") :] if "wal-push" in words else []
    return "%p" in after and ("--cluster", name) in pairwise(after)


def _seconds(text: str) -> int:
    """Return the seconds of a setting such as ``5min``; 0 for ``0``."""
    found = re.fullmatch(r"([0-9]+)(s|min|h|d)?", text)
    units: dict[str | None, int] = {None: 1, "s": 1, "min": 60, "h": 3600, "d": 86_400}
    return int(found[1]) * units[found[2]] if found else 0


def _spool(spool: Path) -> Check:
    place = next(each for each in (spool, *spool.parents) if each.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Check(
            "spool", "failed", f"{place} cannot be written", "it belongs to the user that PostgreSQL runs as"
        )
    if (free := shutil.disk_usage(place).free) < _LITTLE:
        return Check("spool", "warning", f"{free:,} bytes free", "without room each call sends its own file")
    return Check("spool", "ok", str(spool))
