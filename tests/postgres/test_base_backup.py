"""A base backup is complete with its WAL, or it is not listed; what a server says is played by small programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbackup.errors import ConflictError, SourceError, TooFewCopiesError
from fsbackup.postgres import base_backup, survey
from fsbackup.postgres.programs import run_program
from tests.postgres.segments import FILES, OTHER, OURS, Clouds, name_of, tar_of

MANIFEST = (
    b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n"Files": [],\n"WAL-Ranges": [\n'
    b'{ "Timeline": 1, "Start-LSN": "0/200028", "End-LSN": "0/300100" }\n],\n"Manifest-Checksum": "00"}\n'
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory before all others on the PATH, with a server that is ours and is backed up well."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    answer(place, "psql", f"echo '{OURS}|1|0/300100|'")
    (place / "tar").write_bytes(tar_of({**FILES, "noise": bytes(2 << 20), "backup_manifest": MANIFEST}))
    answer(place, "pg_basebackup", f"cat {place}/tar")
    return place


def answer(place: Path, name: str, script: str) -> None:
    """Make a program; what it is called with is left beside it."""
    path = place / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {path}.called\n{script}\n')
    path.chmod(0o755)


def test_it_is_described_once_its_wal_is_there(clouds: Clouds, programs: Path) -> None:
    """From the segment of its start to that of its end; the name of the description says it all."""
    clouds.push(1, 2, 3)
    report = base_backup(clouds.archive, conninfo="service=shop")
    assert (report.status, report.first, report.last) == ("complete", name_of(2), name_of(3))
    stored = clouds.stored("b2")
    assert stored[f"base/{report.label}/base.tar"] == (programs / "tar").read_bytes()
    [name] = [each for each in stored if each.endswith(f"Z-{name_of(2)}-{name_of(3)[8:]}.json")]
    described = json.loads(stored[name])
    assert (described["system_identifier"], described["start"], described["stop"]) == (
        str(OURS),
        "0/200028",
        "0/300100",
    )
    assert [base.label for base in survey(clouds.archive).together.bases] == [report.label]
    assert "-d service=shop replication=true" in (programs / "psql.called").read_text()
    assert "-d service=shop --pgdata=- --format=tar" in (programs / "pg_basebackup.called").read_text()


@pytest.mark.usefixtures("programs")
def test_a_base_backup_without_its_wal_is_unfinished(clouds: Clouds) -> None:
    """The segment that did not come is named."""
    clouds.push(1, 2)
    with pytest.raises(
        TooFewCopiesError, match=f"not in the archive after 0.01 s: {name_of(3)}; it is left unfinished"
    ):
        base_backup(clouds.archive, wait=0.01)
    together = survey(clouds.archive).together
    assert (together.bases, len(together.unfinished)) == ((), 1)


def test_one_that_fails_stores_nothing(clouds: Clouds, programs: Path) -> None:
    """However much it has written."""
    clouds.push(1, 2, 3)
    answer(programs, "pg_basebackup", f"cat {programs}/tar; echo connection lost >&2; exit 1")
    with pytest.raises(SourceError, match="connection lost"):
        base_backup(clouds.archive)
    answer(programs, "psql", "echo 'no such service' >&2; exit 2")
    with pytest.raises(SourceError, match="psql: no such service"):
        base_backup(clouds.archive)
    with pytest.raises(SourceError, match=r"No such file .* install PostgreSQL's client programs"):
        run_program("no-such-program-of-postgresql")
    assert [each for each in clouds.stored("r2") if each.startswith("base/")] == []


def test_another_cluster_or_none_that_archives_is_refused(clouds: Clouds, programs: Path) -> None:
    """Before pg_basebackup is started."""
    with pytest.raises(ConflictError, match=f"nothing of the cluster {OURS} was ever archived"):
        base_backup(clouds.archive)
    clouds.push(1, 2, 3)
    answer(programs, "psql", f"echo '{OTHER}|1|0/300100|'")
    with pytest.raises(ConflictError, match=f"the server is the cluster {OTHER}, and the archive that of {OURS}"):
        base_backup(clouds.archive)
    assert not (programs / "pg_basebackup.called").exists()


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("on", "in the server's log; archive_command runs in the server's"), ("off", "set archive")],
)
def test_a_server_that_has_archived_nothing_is_told_what_to_do(
    clouds: Clouds, programs: Path, mode: str, advice: str
) -> None:
    """Where it is set up, archive_command fails, and only the server's log says why."""
    answer(programs, "psql", f"case \"$*\" in *archive_mode*) echo {mode};; *) echo '{OURS}|1|0/3|';; esac")
    with pytest.raises(ConflictError, match=advice):
        base_backup(clouds.archive)


def test_a_cluster_with_tablespaces_is_refused(clouds: Clouds, programs: Path) -> None:
    """By name, before pg_basebackup is started."""
    clouds.push(1, 2, 3)
    answer(
        programs,
        "psql",
        f"case \"$*\" in *pg_tablespace*) printf 'fast\\t/ssd\\n';; *) echo '{OURS}|1|0/3|';; esac",
    )
    with pytest.raises(SourceError, match=r"tablespaces, .*: fast \(/ssd\); nothing was stored"):
        base_backup(clouds.archive)
    assert not (programs / "pg_basebackup.called").exists()


def test_a_server_that_does_not_archive_is_said(clouds: Clouds, programs: Path) -> None:
    """At once, instead of waiting for WAL that will not come."""
    clouds.push(1)
    notice = "NOTICE:  WAL archiving is not enabled; you must ensure that all required WAL segments are copied"
    answer(programs, "pg_basebackup", f"cat {programs}/tar; echo '{notice}' >&2")
    with pytest.raises(SourceError, match="does not archive its WAL"):
        base_backup(clouds.archive)
