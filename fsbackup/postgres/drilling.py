"""`drill`: a cluster restored to a temporary directory, started, looked at, and removed again; the outcome is
kept.

PostgreSQL runs on a socket in that directory, takes no connection from elsewhere, archives nothing, and has a
configuration of its own: what the restored one sets (memory, libraries to preload, where it listens) belongs to
another machine.
"""

from __future__ import annotations

import logging
import operator
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from fsbackup import clock
from fsbackup.engine.results import BaseReport, Status
from fsbackup.errors import ConfigError, FsbackupError, SourceError
from fsbackup.loop import run
from fsbackup.postgres import prefetch
from fsbackup.postgres.archive import Archive
from fsbackup.postgres.programs import run_program
from fsbackup.postgres.restoring import NO_STANDBY, pg_restore
from fsbackup.postgres.timelines import Timeline
from fsbackup.replication.drills import record_drill

log = logging.getLogger("fsbackup.postgres")

#: Seconds until a recovery has to be done, by default.
TIMEOUT = 3600.0
#: Seconds between two looks at whether the server has recovered.
_TICK = 0.2
_COMPARISON = re.compile(r"(>=|<=|!=|<>|=|>|<)\s*(.+)")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "<>": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
#: Of the socket; of what the cluster has set, and of `PGPORT`, nothing counts.
_PORT = "5432"
_SETTINGS = {
    **NO_STANDBY,
    "archive_mode": "off",
    "recovery_end_command": "",
    "listen_addresses": "",
    "hot_standby": "off",
    "recovery_target_action": "promote",
    "fsync": "off",
    "ssl": "off",
    "shared_preload_libraries": "",
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "",
    "lc_messages": "C",
    "external_pid_file": "",
    "port": _PORT,
}
#: Settings that must be at least those of the server that wrote the WAL: what pg_controldata calls them, and the
#: least, PostgreSQL's default. Of prepared transactions more: it may have allowed them after the base backup.
_LIMITS = {
    "max_connections": ("max_connections setting", 100),
    "max_worker_processes": ("max_worker_processes setting", 8),
    "max_wal_senders": ("max_wal_senders setting", 10),
    "max_prepared_transactions": ("max_prepared_xacts setting", 100),
    "max_locks_per_transaction": ("max_locks_per_xact setting", 64),
}
#: Lines of the server's log that say why it has ended, and the lines behind such a one that say more.
_FATAL, _MORE = re.compile(r"(FATAL|PANIC): "), re.compile(r"(DETAIL|HINT): ")
#: So many lines at the end of it, and so many in all.
_LAST_LINES, _LINES = 5, 20
_TARGET_NOT_REACHED = "recovery ended before configured recovery target was reached"
_NO_COMMIT_AFTER = "no commit after that time is archived: choose an earlier one, or leave out --to"
#: Times that the directory is removed until it is gone: a command of the server may write while it ends.
_REMOVALS = 25


@dataclass(frozen=True, slots=True)
class DrillReport(BaseReport):
    """A drill.

    Parameters
    ----------
    name
        The cluster.
    began_at
        ISO 8601.
    base, target
        What was restored: the base backup's label, and the moment, None for the end of the WAL.
    timeline
        The timeline on which it was recovered; None where it did not come so far.
    recovered_to
        The commit time of the last transaction that was recovered, as PostgreSQL says it; None without one.
    sql, answer, expected
        The query, what it answered, and what was expected.
    problem
        Why the drill failed, None when it did not.
    seconds
        From its beginning to the answer.
    away
        Backends that did not answer, and why.
    alternatives
        As in `PgRestoreReport`: what other timelines have that the newest does not have.
    """

    name: str
    began_at: str
    base: str | None
    target: str | None
    timeline: int | None
    recovered_to: str | None
    sql: str
    answer: str | None
    expected: str | None
    problem: str | None
    seconds: float
    away: dict[str, str]
    alternatives: Mapping[int, str] = field(default_factory=dict)

    json_properties: ClassVar[tuple[str, ...]] = ("status",)

    @property
    def status(self) -> Status:
        """``"failed"``; ``"degraded"`` when a backend was away; else ``"complete"``."""
        if self.problem is not None:
            return "failed"
        return "degraded" if self.away else "complete"


def drill(
    archive: Archive,
    *,
    to: datetime | None = None,
    timeline: Timeline | None = None,
    sql: str = "select 1",
    expect: str | None = None,
    database: str = "postgres",
    user: str = "postgres",
    trust: Sequence[str] = (),
    identity: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    timeout: float = TIMEOUT,
    conninfo: str | None = None,
) -> DrillReport:
    """Restore a cluster into a temporary directory, start PostgreSQL on it, and ask it something.

    Parameters
    ----------
    archive, to, timeline, trust, identity, config, conninfo
        As for `pg_restore`.
    sql
        A query whose answer shows that the data is there.
    database, user
        Where to ask it, and as whom; there is no password.
    expect
        What the answer must be: ``"> 0"``, ``"= shop"``, or just the text. None: that there is one.
    directory
        Where to make the temporary directory, with room for the cluster; by default where the system has them.
    timeout
        Seconds that recovery may take.

    Returns
    -------
    DrillReport
        Also where recovery failed: `problem` says why, and the outcome is kept in the backends either way.

    Raises
    ------
    ConfigError
        When this process is root's, which PostgreSQL does not accept, or for what `pg_restore` refuses.
    """
    if os.geteuid() == 0:
        raise ConfigError(
            "PostgreSQL does not run as root", hint="run the drill as the user postgres, or any other"
        )
    began, started = clock.now(), time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="fsbackup-drill-", dir=directory))
    restored, answer, recovered, problem = None, None, None, None
    try:
        restored = pg_restore(
            archive,
            home / "data",
            to=to,
            timeline=timeline,
            trust=trust,
            identity=identity,
            config=config,
            conninfo=conninfo,
        )
        with _Server(home, timeout) as server:
            recovered = server.ask("select pg_last_xact_replay_timestamp()", "postgres", user) or None
            answer = server.ask(sql, database, user)
            problem = compare(answer, expect)
    except ConfigError:
        raise
    except (FsbackupError, OSError) as error:
        problem = str(error)
    finally:
        _remove(home)
        prefetch.clear(archive)  # its worker would keep segments, for nobody
    report = DrillReport(
        name=archive.name,
        began_at=clock.local(began).isoformat(timespec="seconds"),
        base=restored.base if restored else None,
        target=to.isoformat() if to else None,
        timeline=restored.timeline if restored else None,
        recovered_to=recovered,
        sql=sql,
        answer=answer,
        expected=expect,
        problem=problem,
        seconds=time.monotonic() - started,
        away=dict(restored.away) if restored else {},
        alternatives=restored.alternatives if restored else {},
    )
    unrecorded = run(record_drill(archive.targets, archive.name, began, report.as_dict(), ok=bool(report)))
    for name, why in unrecorded.items():
        report.away.setdefault(name, str(why))
    return report


def compare(answer: str, expect: str | None) -> str | None:
    """Return what is wrong with an answer, None when it is what was expected."""
    if expect is None:
        return None if answer else "the query has no answer"
    found = _COMPARISON.fullmatch(expect.strip())
    sign, wanted = (found[1], found[2].strip()) if found else ("=", expect.strip())
    try:
        is_right = _OPERATORS[sign](float(answer), float(wanted))
    except ValueError:
        is_right = _OPERATORS[sign](answer, wanted)
    return None if is_right else f"the query answered {answer!r}, and {expect} was expected"


def _remove(home: Path) -> None:
    for _ in range(_REMOVALS):
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(_TICK)
    log.warning("%s cannot be removed: it has a copy of the cluster", home)


def _of_old_server(said: str) -> dict[str, str]:
    """Return the settings that depend on the server that wrote the WAL, from what pg_controldata says."""
    fields = {name: int(value) for name, value in re.findall(r"^(.+?): +([0-9]+)$", said, re.MULTILINE)}
    limits = {name: str(max(fields.get(label, 0), least)) for name, (label, least) in _LIMITS.items()}
    size = fields.get("Bytes per WAL segment", 16 << 20) >> 20
    return {**limits, "min_wal_size": f"{2 * size}MB", "max_wal_size": f"{max(1024, 4 * size)}MB"}


def _last_words(text: str) -> str:
    """Return the errors of a log that have ended the server, with their hints, and its last lines."""
    lines = text.strip().splitlines()
    kept = set(range(max(len(lines) - _LAST_LINES, 0), len(lines)))
    for at, line in enumerate(lines):
        if _FATAL.match(line) or (_MORE.match(line) and at - 1 in kept):
            kept.add(at)
    return " | ".join(lines[at] for at in sorted(kept)[-_LINES:])


class _Server:
    """PostgreSQL on the restored directory, for as long as the block lasts."""

    def __init__(self, home: Path, timeout: float) -> None:
        self._home, self._timeout = home, timeout
        self._data, self._log = home / "data", home / "log"
        self._programs = _programs((self._data / "PG_VERSION").read_text().strip())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Server:
        self._run("pg_verifybackup", "--no-parse-wal", "--quiet", str(self._data))
        (self._home / "hba.conf").write_text("local all all trust\n")
        (self._home / "postgresql.conf").write_text("")
        settings = {
            **_SETTINGS,
            **_of_old_server(self._run("pg_controldata", str(self._data))),
            "unix_socket_directories": str(self._home),
            "config_file": str(self._home / "postgresql.conf"),
            "hba_file": str(self._home / "hba.conf"),
            "ident_file": str(self._home / "postgresql.conf"),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        try:
            self._start(options)
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self, options: Sequence[str]) -> None:
        with open(self._log, "wb") as output:
            arguments = [self._program("postgres"), "-D", str(self._data), *options]
            self._process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self._wait_until_recovered(self._process)
        except SourceError as error:
            self._stop()
            said = self._log.read_text(errors="replace")
            hint = _NO_COMMIT_AFTER if _TARGET_NOT_REACHED in said else None
            message = f"PostgreSQL did not recover: {error.message}: {_last_words(said)}"
            raise SourceError(message, hint=hint) from error

    def _wait_until_recovered(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it takes connections: with hot_standby off it takes none before."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if self._is_ready():
                return
            if process.poll() is not None:
                raise SourceError(f"it has ended with {process.returncode}")
            time.sleep(_TICK)
        raise SourceError(f"it is not done after {self._timeout:g} s")

    def _is_ready(self) -> bool:
        """Look where `pg_ctl` does: who connects too early leaves a FATAL in the log."""
        with suppress(OSError):
            return (self._data / "postmaster.pid").read_text().split()[-1:] == ["ready"]
        return False

    def __exit__(self, *_: object) -> None:
        self._stop()

    def ask(self, sql: str, database: str, user: str) -> str:
        """Return the answer of a query, unaligned."""
        where = ("-h", str(self._home), "-p", _PORT, "-d", database, "-U", user)
        return self._run("psql", *where, "-wAtX", "-v", "ON_ERROR_STOP=1", "-c", sql).strip()

    def _stop(self) -> None:
        """End it at once: nothing of it is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def _program(self, name: str) -> str:
        return str(self._programs / name) if self._programs else name

    def _run(self, program: str, *arguments: str) -> str:
        return run_program(self._program(program), *arguments, timeout=self._timeout + 60)


def _programs(version: str) -> Path | None:
    """Return where the programs of a major version of PostgreSQL are; None for those on the PATH.

    Raises
    ------
    SourceError
        When there are none of that version.
    """
    place = Path(f"/usr/lib/postgresql/{version}/bin")
    said = "" if shutil.which("postgres") is None else run_program("postgres", "--version")
    if re.search(rf"\b{re.escape(version)}\b", said.partition("(PostgreSQL)")[2]):
        return None
    if (place / "postgres").exists():
        return place
    raise SourceError(
        f"the cluster is of PostgreSQL {version}, and {said.strip() or 'no PostgreSQL'} is on the PATH",
        hint="install that version, or put its programs on the PATH",
    )
