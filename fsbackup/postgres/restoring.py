"""`pg_restore`: a base backup unpacked into a data directory, and set up so that PostgreSQL recovers from the
archive.

The directory must be empty. A base backup is chosen that ended before the target and whose WAL is there, on the
timeline that is meant (`fsbackup.postgres.timelines`); its bytes are proven block by block before they are
unpacked. If anything fails, the directory is as empty as before. What is written beside the base backup is
``recovery.signal``, and at the end of ``postgresql.auto.conf``, where it outranks what the cluster had:
`restore_command`, and the target. Of a base backup that was taken from a standby, ``standby.signal`` and the
connection to its primary go.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tarfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

from fsbackup import clock
from fsbackup.engine.results import BaseReport, DownloadReport, Status
from fsbackup.errors import ConfigError, IntegrityError
from fsbackup.postgres import prefetch
from fsbackup.postgres.archive import Archive
from fsbackup.postgres.programs import tablespaces
from fsbackup.postgres.status import survey
from fsbackup.postgres.timelines import Timeline, alternatives, choose
from fsbackup.retention.archive import Base

#: Settings of which a restored server must not be surprised.
_ARCHIVING = re.compile(r"^\s*(archive_(?:mode|command|library))\s*=?\s*(.*?)\s*(?:#.*)?$")
#: Settings that say where a recovery ends, of which one may be set. A server that was recovered has its own still.
_TARGETS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
#: Settings of a standby, with what they are for a server whose recovery ends: it follows no primary, replays at
#: once, and removes no WAL of others.
NO_STANDBY = {
    "primary_conninfo": "",
    "primary_slot_name": "",
    "recovery_min_apply_delay": "0",
    "archive_cleanup_command": "",
}


@dataclass(frozen=True, slots=True)
class PgRestoreReport(BaseReport):
    """A data directory that is ready to be started.

    Parameters
    ----------
    directory
        Where it is.
    base
        The label of the base backup.
    target
        The moment to recover to, ISO 8601; None for the end of the WAL.
    timeline
        The timeline on which it is recovered.
    last_segment, last_at
        The last segment of that timeline that can be recovered, and when it was stored, ISO 8601.
    restore_command
        What PostgreSQL fetches WAL with.
    archiving
        What the server has set about archiving, once it is started.
    away
        Backends that did not answer, or could not be read, and why.
    download
        How the base backup was read.
    alternatives
        Where all of the newest timeline is recovered, and nobody has chosen it: other timelines that have WAL of
        their own, each with what it has.
    """

    directory: Path
    base: str
    target: str | None
    timeline: int
    last_segment: str | None
    last_at: str | None
    restore_command: str
    archiving: tuple[str, ...]
    away: dict[str, str]
    download: DownloadReport
    alternatives: Mapping[int, str] = field(default_factory=dict)

    json_properties: ClassVar[tuple[str, ...]] = ("status",)

    @property
    def status(self) -> Status:
        """``"complete"``, or ``"degraded"`` when a backend was away."""
        return "degraded" if self.away else "complete"


def pg_restore(
    archive: Archive,
    directory: str | os.PathLike[str],
    *,
    to: datetime | None = None,
    timeline: Timeline | None = None,
    trust: Sequence[str] = (),
    config: str | os.PathLike[str] | None = None,
    identity: str | os.PathLike[str] | None = None,
    conninfo: str | None = None,
) -> PgRestoreReport:
    """Unpack a base backup into a directory, and write the settings with which PostgreSQL recovers from the
    archive.

    Parameters
    ----------
    archive
        Where from.
    directory
        The data directory: one that is empty, or is made. As root, its files get its owner.
    to
        The moment to recover to, with its time zone; None for the end of the WAL.
    timeline
        The timeline on which to recover, by its number, or ``"latest"`` for the newest. None is the newest, too,
        unless another timeline has the moment, and the two may differ by then.
    trust
        Backends whose word alone counts for an absence, while others are away; part of the settings.
    config
        The configuration file for `restore_command`; by default the one that the archive was opened from.
    identity
        The file of an age identity or a private SSH key, for what is encrypted; `restore_command` names it, too.
    conninfo
        How to connect to the cluster that was archived, to see whether it runs with tablespaces on this machine.

    Raises
    ------
    ConfigError
        When the directory has something in it, the target is outside of what the archive can recover, or on
        several timelines of which none was chosen, or recovery would write into tablespaces of the running
        cluster.
    FsbackupError
        When the base backup cannot be read, proven.
    """
    target, file = Path(directory), config or archive.origin
    archive.trusting(tuple(trust))
    if file is None:
        raise ConfigError(
            "restore_command needs a configuration file", hint="open the archive from one, or name it"
        )
    _require_empty(target)
    _refuse_shared_tablespaces(conninfo)
    found = survey(archive)
    window = choose(archive, found, to, timeline)
    command = restore_command(archive, file, trust, identity)
    prefetch.clear(archive)
    base = next(each for each in found.together.bases if each.label == window.base)
    # A moment is recovered on the timeline that was looked at here, also when there is a newer one by then.
    follows = to is None and window.timeline == found.together.newest_timeline and timeline in (None, "latest")
    try:
        download = _unpack(archive, base, target, identity)
        _write_settings(target, command, to, timeline="latest" if follows else str(window.timeline))
        _give_to_owner(target)
        os.sync()
    except BaseException:
        _clear(target)
        raise
    errors = {name: each.error for name, each in found.backends.items() if each.error is not None}
    return PgRestoreReport(
        directory=target,
        base=window.base,
        target=to.isoformat() if to else None,
        timeline=window.timeline,
        last_segment=window.last,
        last_at=clock.local(window.end).isoformat(timespec="seconds") if window.end else None,
        restore_command=command,
        archiving=_archiving(target),
        away={**errors, **download.failed},
        download=download,
        alternatives=alternatives(found) if to is None and timeline is None else {},
    )


def restore_command(
    archive: Archive,
    config: str | os.PathLike[str],
    trust: Sequence[str] = (),
    identity: str | os.PathLike[str] | None = None,
) -> str:
    """Return the `restore_command` for an archive; this installation of fsbackup is what it runs."""
    program = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "fsbackup" else None
    words = [os.path.abspath(program)] if program else [sys.executable, "-m", "fsbackup"]
    words += ["-c", os.path.abspath(config), "wal-fetch"]
    end = ["--cluster", archive.name, *(word for name in trust for word in ("--trust", name))]
    end += ["--identity", os.path.abspath(identity)] if identity is not None else []
    quoted = [" ".join(shlex.quote(word).replace("%", "%%") for word in part) for part in (words, end)]
    return f"{quoted[0]} %f %p {quoted[1]}"


def _require_empty(directory: Path) -> None:
    try:
        found = next(directory.iterdir(), None)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise ConfigError(f"{directory} is not a directory") from None
    if found is not None:
        raise ConfigError(f"{directory} is not empty: it has {found.name}", hint="name a directory that is empty")


def _refuse_shared_tablespaces(conninfo: str | None) -> None:
    """Refuse while the cluster runs with tablespaces on this machine.

    No base backup has any, but the WAL may create one since: recovery then writes to where the original has its.
    """
    shared = {name: place for name, place in tablespaces(conninfo).items() if os.path.isdir(place)}
    if shared:
        named = ", ".join(f"{name} ({place})" for name, place in shared.items())
        raise ConfigError(
            f"the running cluster has tablespaces here, into which recovery would write: {named}",
            hint="restore it on another machine, or drop them",
        )


def _unpack(
    archive: Archive, base: Base, directory: Path, identity: str | os.PathLike[str] | None
) -> DownloadReport:
    """Unpack a base backup into an empty directory, which is made where it is missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with open(reading, "rb") as source, open(writing, "wb") as sink:
        extractor = _Extractor(source, directory)
        extractor.start()
        try:
            report = archive.store.restore(base.key, cast(BinaryIO, sink), identity=identity)
        except BrokenPipeError:
            report = None  # the extractor has stopped reading, and says why
        finally:
            with suppress(BrokenPipeError):
                sink.close()
            extractor.join()
    if extractor.error is not None or report is None:
        raise IntegrityError(
            f"the base backup {base.label} cannot be unpacked: {extractor.error}"
        ) from extractor.error
    if not report.verified:
        raise IntegrityError(f"nothing proves the base backup {base.label}: it has no manifest on any backend")
    return report


class _Extractor(threading.Thread):
    """Unpacks a tar from a pipe; reads it to its end, so that who writes it is not held up."""

    def __init__(self, source: BinaryIO, directory: Path) -> None:
        super().__init__(name="fsbackup-untar", daemon=True)
        self._source, self._directory = source, directory
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with tarfile.open(fileobj=self._source, mode="r|") as archive:
                _extract(archive, self._directory)
            while self._source.read(1 << 20):
                pass
        except Exception as error:  # noqa: BLE001 - raised by whoever started it
            self.error = error
        finally:
            self._source.close()  # or who writes would wait for ever


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack what stays in the directory; Python before 3.11.4 (Debian 12) has no filter that sees to it."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(directory, filter="data")
        return
    for member in archive:
        if not (member.isfile() or member.isdir()) or not _stays_below(member.name):
            raise tarfile.ReadError(f"{member.name!r} is neither a file nor a directory below it")
        member.mode &= 0o755
        archive.extract(member, directory, set_attrs=not member.isdir())


def _stays_below(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _write_settings(directory: Path, command: str, to: datetime | None, *, timeline: str) -> None:
    if not (directory / "PG_VERSION").is_file() or not (directory / "backup_label").is_file():
        raise IntegrityError("the base backup has no PG_VERSION or backup_label: it is none of pg_basebackup's")
    # First none of the targets: of several that are set, also by an earlier restore, PostgreSQL takes none.
    reset = {**dict.fromkeys(_TARGETS, ""), **NO_STANDBY}
    settings = {**reset, "restore_command": command, "recovery_target_timeline": timeline}
    if to is not None:
        del settings["recovery_target_time"]
        settings["recovery_target_time"] = to.isoformat(sep=" ")
    lines = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    with open(directory / "postgresql.auto.conf", "a", encoding="utf-8") as file:
        file.write(f"# written by fsbackup pg-restore\n{lines}")
    (directory / "standby.signal").unlink(missing_ok=True)  # it outranks recovery.signal: recovery would not end
    (directory / "recovery.signal").touch(mode=0o600)


def _quoted(value: str) -> str:
    """Return a value as PostgreSQL's configuration files have it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _archiving(directory: Path) -> tuple[str, ...]:
    """Return what the restored server has set about archiving: it would archive to where the old one did."""
    found: dict[str, str] = {}
    for name in ("postgresql.conf", "postgresql.auto.conf"):
        with suppress(OSError):
            text = (directory / name).read_text(encoding="utf-8", errors="replace")
            found |= {match[1]: match[2] for match in map(_ARCHIVING.match, text.splitlines()) if match}
    return tuple(f"{name} = {value}" for name, value in found.items())


def _give_to_owner(directory: Path) -> None:
    """As root, give what was unpacked to the owner of the directory: PostgreSQL runs as no other."""
    owner = directory.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in directory.rglob("*"):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _clear(directory: Path) -> None:
    """Leave the directory as empty as it was."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
