"""What `doctor` says of a cluster's server; the server is played by a program that answers for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from fsbackup import ReplicatedStorage, Stages
from fsbackup.errors import ConfigError
from fsbackup.postgres import Archive
from fsbackup.postgres.doctor import diagnose_cluster
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import OTHER, OURS, Clouds, name_of
from tests.postgres.test_base_backup import answer
from tests.postgres.test_cli_wal import CONFIG
from tests.replication.rig import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Status, fault_proxy

COMMAND = "fsbackup -c /etc/fsbackup.yaml wal-push %p --cluster shop"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server that archives as it should."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    answer(place, "pg_basebackup", "echo 'pg_basebackup (PostgreSQL) 16.1'")
    answer(place, "pg_verifybackup", "")
    says(place)
    return place


def says(place: Path, **changed: str) -> None:
    """Have the server answer with these settings in place of the right ones."""
    fields = {
        "system": str(OURS), "version": "16.1", "mode": "on", "command": COMMAND, "timeout": "5min",
        "level": "replica", "archived": "7", "failed": "0", "ago": "30", "failing": "false",
    }  # fmt: skip
    (place / "fields").write_text("\t".join({**fields, **changed}.values()) + "\n")
    answer(place, "psql", f"cat {place}/fields")


@pytest.mark.usefixtures("programs")
def test_a_server_that_archives_is_well(clouds: Clouds, tmp_path: Path) -> None:
    clouds.push(1)
    found = diagnose_cluster(clouds.archive, conninfo="service=shop", spool=str(tmp_path / "spool/shop"))
    assert found.health == "ok"
    assert [check.name for check in found.checks] == [
        "programs",
        "archive",
        "push",
        "server",
        "archiving",
        "timeout",
        "spool",
    ]
    assert found["archiving"].detail == "7 archived, the last one 30 s ago"
    assert found["push"].detail == "written, read back and removed on r2, b2"
    assert set(clouds.stored("r2")) == {"cluster.json", f"wal/{name_of(1)}"}


@pytest.mark.usefixtures("programs")
def test_a_test_push_names_who_refuses(clouds: Clouds) -> None:
    """A warning while enough others take it; the bytes that a push would have sent are nowhere."""
    clouds.push(1)
    clouds.take_away("b2")
    found = diagnose_cluster(clouds.archive)["push"]
    assert (found.outcome, found.detail.startswith("b2: ")) == ("warning", True)
    assert diagnose_cluster(replace(clouds, min_copies=2).archive)["push"].outcome == "failed"


@pytest.mark.usefixtures("programs")
def test_a_bucket_that_may_only_be_read_refuses_a_test_push(moto: S3Endpoint) -> None:
    """Of a key that was made for restoring, say."""
    with fault_proxy(s3.fresh_bucket(moto)) as proxy:
        proxy.add(Status(403, "AccessDenied"), on="put_object", key="pg/shop/doctor-")
        archive = Archive(ReplicatedStorage([connect("r2", proxy.endpoint, "")]), "pg/shop")
        found = diagnose_cluster(archive)["push"]
        assert found.outcome == "failed"
        assert found.detail.startswith("r2: ")
        assert proxy.count("put_object", "pg/shop/doctor-") == 1
        proxy.clear()
        proxy.add(Status(403, "AccessDenied"), on="delete")
        proxy.add(Status(403, "AccessDenied"), on="delete_objects")
        found = diagnose_cluster(archive)["push"]
        assert (found.outcome, "cannot be removed" in found.detail) == ("warning", True)


@pytest.mark.usefixtures("programs")
def test_a_test_push_lacks_what_a_push_would(clouds: Clouds) -> None:
    """Such as the package that encrypts."""

    def prepare() -> None:
        raise ConfigError("encrypt: needs pyrage", hint="pip install 'fsbackup[age]'")

    found = diagnose_cluster(clouds.archive, prepare=prepare)["push"]
    assert (found.outcome, found.advice) == ("failed", "pip install 'fsbackup[age]'")


@pytest.mark.usefixtures("programs")
def test_an_identity_key_that_cannot_be_read_is_warned_of(clouds: Clouds, tmp_path: Path) -> None:
    """A push goes on without it."""
    (tmp_path / "state").write_text("no directory")
    public = str(pyrage.x25519.Identity.generate().to_public())
    stages = Stages(encrypt={"age": [public]}, identity_key_file=tmp_path / "state/identity.key")
    found = diagnose_cluster(clouds.archive, prepare=lambda: stages)
    assert (found["push"].outcome, found["identity key"].outcome) == ("ok", "warning")
    assert str(tmp_path / "state") in found["identity key"].detail


@pytest.mark.parametrize(
    ("changed", "check", "detail", "advice"),
    [
        ({"system": str(OTHER)}, "server", f"it is the cluster {OTHER}", "a prefix of its own"),
        ({"mode": "off"}, "archiving", "archive_mode is off", "set archive_mode = on"),
        (
            {"command": "cp %p /x/%f"},
            "archiving",
            "archive_command is 'cp %p /x/%f'",
            "wal-push %p --cluster shop",
        ),
        ({"command": COMMAND.replace("shop", "shop2")}, "archiving", "archive_command is", "--cluster shop'"),
        ({"failed": "3", "failing": "true"}, "archiving", "the last try failed (3 so far)", "server's log"),
        ({"timeout": "0"}, "timeout", "archive_timeout is 0", "some minutes"),
        ({"timeout": "1d"}, "timeout", "archive_timeout is 1d", "some minutes"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    clouds: Clouds, programs: Path, changed: dict[str, str], check: str, detail: str, advice: str
) -> None:
    """Each is no "ok", and the others are."""
    clouds.push(1)
    says(programs, **changed)
    found = diagnose_cluster(clouds.archive)
    assert [each.name for each in found.checks if each.outcome != "ok"] == [check]
    assert detail in found[check].detail
    assert advice in str(found[check].advice)


@pytest.mark.parametrize(
    "command",
    [
        'fsbackup -c /etc/f.yaml wal-push "%p" --cluster shop',
        "fsbackup wal-push --cluster=shop '%p' || exit 1",
        "nice fsbackup wal-push --spool /var/spool/f --cluster shop %p",
    ],
)
def test_a_command_may_be_written_in_many_ways(clouds: Clouds, programs: Path, command: str) -> None:
    clouds.push(1)
    says(programs, command=command)
    assert diagnose_cluster(clouds.archive)["archiving"].outcome == "ok"


def test_all_that_psql_says_is_shown(clouds: Clouds, programs: Path) -> None:
    """The reason is in its first line."""
    answer(programs, "psql", r"printf 'psql: error: no socket\n\tIs the server running?\n' >&2; exit 2")
    assert diagnose_cluster(clouds.archive)["server"].detail == "psql: error: no socket Is the server running?"


def test_what_cannot_be_found_out_is_not_known(clouds: Clouds, programs: Path, tmp_path: Path) -> None:
    """A server on another machine is no fault; an archive that is empty, or a spool that is no directory, are."""
    answer(programs, "psql", "echo 'connection refused' >&2; exit 2")
    (tmp_path / "spool").touch()
    found = diagnose_cluster(clouds.archive, spool=str(tmp_path / "spool/shop"))
    outcomes = {each.name: each.outcome for each in found.checks}
    assert outcomes.pop("push") == "ok"
    assert outcomes == {"programs": "ok", "archive": "warning", "server": "not known", "spool": "failed"}


def test_the_command_asks_backends_and_clusters(clouds: Clouds, programs: Path) -> None:
    """All of the configuration, or those that are named."""
    cli = Cli(clouds.home)
    cli.environ["PATH"] = f"{programs}:{cli.environ['PATH']}"
    (clouds.home / "fsbackup.yaml").write_text(CONFIG)
    clouds.push(1)
    says(programs, mode="off")
    done = cli("doctor")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "failed: 2 backends and 1 PostgreSQL cluster checked; failed: shop"
    assert cli("doctor", "r2").code == 0
    report = cli("doctor", "shop", "--json").json()
    assert report["backends"] == {}
    assert report["clusters"]["shop"]["checks"]["archiving"]["outcome"] == "failed"
