"""A PostgreSQL data directory with segments to archive, two buckets over TLS, and who archives there.

pgBackRest 2.45 (Debian 12) knows clusters up to PostgreSQL 15 and S3 over TLS only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.benchmarks.measure import Command
from tests.postgres.segments import segment
from tests.postgres.server import AS_NOBODY
from tests.servers.endpoint import S3Endpoint, fresh_bucket
from tests.servers.s3 import seaweedfs_server

#: Debian's; the wheel's are of a version that pgBackRest does not know.
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
_SIZE = 16 << 20
#: Files at once of the workers of both.
WORKERS = 4


def name_of(number: int) -> str:
    """Return the name of a segment of 16 MiB."""
    return f"00000001{number // 256:08X}{number % 256:08X}"


@dataclass(frozen=True)
class Cluster:
    """A data directory that no server runs on, and two places for its WAL."""

    folder: Path
    data: Path
    system: int
    places: Mapping[str, S3Endpoint]

    def make(self, *numbers: int) -> list[Path]:
        """Have segments wait to be archived; those that are not there get random content."""
        for number in numbers:
            path = self.data / "pg_wal" / name_of(number)
            if not path.exists():
                body = os.urandom(_SIZE - 4096)
                path.write_bytes(segment(number, system=self.system, size=_SIZE, body=body))
            (self.data / "pg_wal/archive_status" / f"{path.name}.ready").touch()
        return [self.data / "pg_wal" / name_of(number) for number in numbers]

    def clear(self) -> None:
        """Have nothing wait any more."""
        for place in ("pg_wal", "pg_wal/archive_status"):
            for path in (self.data / place).glob("0000*"):
                path.unlink()

    def push(self, who: str, path: Path) -> Command:
        """Return the archive_command of a contender."""
        return WHO[who](self).push(path)

    def fetch(self, who: str, number: int, target: Path) -> Command:
        """Return the restore_command of a contender."""
        target.unlink(missing_ok=True)
        return WHO[who](self).fetch(name_of(number), target)


class Fsbackup:
    """fsbackup with a configuration of its own."""

    def __init__(self, cluster: Cluster, *, spool: bool) -> None:
        self.home = cluster.folder / ("fsbackup-spool" if spool else "fsbackup")
        self._config = self.home / "fsbackup.yaml"
        if not self.home.exists():
            self.home.mkdir()
            settings = {"spool": str(self.home / "spool")} if spool else {}
            shop = {"replication": "wal", "prefix": self.home.name, "workers": WORKERS, **settings}
            backends = {name: place.backend for name, place in cluster.places.items()}
            sets = {"wal": {"backends": list(backends), "min_copies": 2}}
            config = {"version": 1, "backends": backends, "replication": sets, "postgres": {"shop": shop}}
            self._config.write_text(json.dumps(config))

    def push(self, path: Path) -> Command:
        return self._command("wal-push", str(path))

    def fetch(self, name: str, target: Path) -> Command:
        return self._command("wal-fetch", name, str(target))

    def _command(self, *words: str) -> Command:
        program = str(Path(sys.executable).with_name("fsbackup"))
        environ = {"XDG_STATE_HOME": str(self.home / "state")}
        return Command([program, "-c", str(self._config), *words, "--cluster", "shop"], env=environ)


class PgBackRest:
    """pgBackRest with a stanza of its own, nothing compressed."""

    def __init__(self, cluster: Cluster, *, spool: bool) -> None:
        self.home = cluster.folder / ("pgbackrest-async" if spool else "pgbackrest")
        self._config = self.home / "pgbackrest.conf"
        if not self.home.exists():
            self.home.mkdir()
            lines = {
                "compress-type": "none",
                "archive-async": "y" if spool else "n",
                "process-max": str(WORKERS),
                "spool-path": str(self.home / "spool"),
                "lock-path": str(self.home / "lock"),
                "log-level-file": "off",
                "log-level-console": "error",
                "log-level-stderr": "error",
            }
            for number, place in enumerate(cluster.places.values(), 1):
                lines |= _repository(f"repo{number}", place, self.home.name)
            text = "".join(f"{name}={value}\n" for name, value in lines.items())
            self._config.write_text(f"[global]\n{text}\n[shop]\npg1-path={cluster.data}\n")
            _run([*self._words, "--no-online", "stanza-create"])

    @property
    def _words(self) -> list[str]:
        return ["pgbackrest", f"--config={self._config}", "--stanza=shop"]

    def push(self, path: Path) -> Command:
        return Command([*self._words, "archive-push", str(path)])

    def fetch(self, name: str, target: Path) -> Command:
        return Command([*self._words, "archive-get", name, str(target)])


def _repository(name: str, place: S3Endpoint, prefix: str) -> dict[str, str]:
    url = urlsplit(place.endpoint_url)
    options = {
        "type": "s3",
        "path": f"/{prefix}",
        "s3-bucket": place.bucket,
        "s3-endpoint": str(url.hostname),
        "storage-port": str(url.port),
        "storage-verify-tls": "n",
        "s3-region": place.region,
        "s3-key": place.access_key_id,
        "s3-key-secret": place.secret_access_key,
        "s3-uri-style": "path",
    }
    return {f"{name}-{option}": value for option, value in options.items()}


Who = Fsbackup | PgBackRest

#: Each call alone, and with a worker that goes ahead.
WHO: Mapping[str, Callable[[Cluster], Who]] = {
    "fsbackup": lambda cluster: Fsbackup(cluster, spool=False),
    "fsbackup, spool": lambda cluster: Fsbackup(cluster, spool=True),
    "pgBackRest": lambda cluster: PgBackRest(cluster, spool=False),
    "pgBackRest, async": lambda cluster: PgBackRest(cluster, spool=True),
}


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Make the data directory, and run the servers."""
    missing = [each for each in ("pgbackrest", str(PROGRAMS / "initdb")) if shutil.which(each) is None]
    if missing:
        raise SystemExit(f"apt-get install pgbackrest postgresql-15: there is no {', '.join(missing)}")
    with ExitStack() as stack:
        servers = [stack.enter_context(seaweedfs_server(tls=True)) for _ in range(2)]
        data = folder / "data"
        _run([*AS_NOBODY, str(PROGRAMS / "initdb"), "-D", str(data), "--no-sync", "--username=postgres"])
        said = _run([str(PROGRAMS / "pg_controldata"), str(data)])
        system = re.search(r"system identifier: +([0-9]+)", said)
        assert system is not None
        places = {name: fresh_bucket(server) for name, server in zip(("r2", "b2"), servers, strict=True)}
        made = Cluster(folder, data, int(system[1]), places)
        made.clear()
        yield made


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout
