"""Compressed and encrypted archives: what is stored, who can read it, and that the same is still the same."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pyrage
import pytest
from backports import zstd

from fsbackup import Stages
from fsbackup.cli import main
from fsbackup.errors import ConfigError, ConflictError, ObjectNotFoundError, UnknownIdentityError, WalGapError
from fsbackup.postgres import Archive, base_backup, fetch, pg_restore, push, survey
from fsbackup.postgres.secret import cluster_secret
from tests.postgres.segments import FILES, OTHER, OURS, Clouds, control_file, name_of, segment, tar_of
from tests.postgres.server import Server, restored, temporary_home
from tests.postgres.test_base_backup import programs  # noqa: F401 - a fixture
from tests.postgres.test_cli_wal import CONFIG


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A private key in a file."""
    path = tmp_path / "identity"
    path.write_text(str(pyrage.x25519.Identity.generate()))
    return path


@pytest.fixture
def stages(tmp_path: Path, identity: Path) -> Stages:
    """Compressed, then encrypted to its owner."""
    public = str(pyrage.x25519.Identity.from_str(identity.read_text()).to_public())
    return Stages(compress="zstd", encrypt={"age": [public]}, identity_key_file=tmp_path / "identity.key")


def staged(clouds: Clouds, stages: Stages) -> Archive:
    return Archive(clouds.archive.store, "pg/shop", name="shop", stages=stages)


def test_a_segment_is_what_zstd_and_age_make_of_it(clouds: Clouds, stages: Stages, identity: Path) -> None:
    """Histories are not: what only says where a timeline began is needed by who has no private key."""
    archive = staged(clouds, stages)
    assert push(archive, clouds.file(name_of(1), segment(1, body=b"rows")))
    assert push(archive, clouds.file("00000002.history", b"1\t0/200000\tx\n"))
    stored = clouds.stored("b2")
    assert stored["wal/00000002.history"] == b"1\t0/200000\tx\n"
    key = pyrage.x25519.Identity.from_str(identity.read_text())
    plain = zstd.decompress(pyrage.decrypt(stored[f"wal/{name_of(1)}.zst.age"], [key]))
    assert plain == segment(1, body=b"rows")


def test_the_same_again_is_the_same_though_it_is_encrypted(clouds: Clouds, stages: Stages) -> None:
    """After a degraded push, the other cloud gets the same bytes; other content is refused."""
    clouds.push(9)
    clouds.take_away("b2")
    path = clouds.file(name_of(1), segment(1))
    assert push(staged(clouds, stages), path).status == "degraded"
    clouds.bring_back("b2")
    assert push(staged(clouds, stages), path).status == "complete"
    assert push(staged(clouds, stages), path).already
    name = f"wal/{name_of(1)}.zst.age"
    assert clouds.stored("r2")[name] == clouds.stored("b2")[name]
    report = push(staged(clouds, stages), clouds.file(name_of(1), segment(1, body=b"other")))
    assert isinstance(report.errors["r2"], ConflictError)


def test_a_host_without_the_identity_key_is_told_what_it_lacks(
    clouds: Clouds, stages: Stages, identity: Path, tmp_path: Path
) -> None:
    """A standby that archives always, say: whether the content is another one is not known, so it is not said."""
    path = clouds.file(name_of(1), segment(1))
    assert push(staged(clouds, stages), path)
    public = str(pyrage.x25519.Identity.from_str(identity.read_text()).to_public())
    own = Stages(compress="zstd", encrypt={"age": [public]}, identity_key_file=tmp_path / "standby.key")
    error = push(staged(clouds, own), path).errors["r2"]
    assert isinstance(error, UnknownIdentityError)
    assert "identity_key_file" in str(error)
    (tmp_path / "standby.key").write_bytes((tmp_path / "identity.key").read_bytes())
    given = Stages(compress="zstd", encrypt={"age": [public]}, identity_key_file=tmp_path / "standby.key")
    assert push(staged(clouds, given), path).already


def put_control(clouds: Clouds, data: bytes) -> None:
    """Make the place in which `pg_wal` is a data directory."""
    (clouds.home / "global").mkdir(exist_ok=True)
    (clouds.home / "global/pg_control").write_bytes(data)


def test_no_identity_key_is_needed_where_the_cluster_is(
    clouds: Clouds, stages: Stages, identity: Path, tmp_path: Path
) -> None:
    """With the state directory lost, or on a standby: the same is the same, and other content is other content."""
    put_control(clouds, control_file(bytes(range(1, 33))))
    path = clouds.file(name_of(1), segment(1))
    assert push(staged(clouds, stages), path)
    (tmp_path / "identity.key").unlink()
    public = str(pyrage.x25519.Identity.from_str(identity.read_text()).to_public())
    anew = Stages(compress="zstd", encrypt={"age": [public]}, identity_key_file=tmp_path / "identity.key")
    assert push(staged(clouds, anew), path).already
    error = push(staged(clouds, anew), clouds.file(name_of(1), segment(1, body=b"other"))).errors["r2"]
    assert isinstance(error, ConflictError)
    assert not isinstance(error, UnknownIdentityError)
    assert "the archive has other content" in str(error)


def test_an_identity_key_that_cannot_be_read_is_as_good_as_a_missing_one(
    clouds: Clouds, stages: Stages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the cluster is. Elsewhere a segment could never be recognised again, and is not stored."""
    key = tmp_path / "identity.key"
    key.mkdir()
    path = clouds.file(name_of(1), segment(1))
    with pytest.raises(ConfigError, match=r"identity key .* Is a directory"):
        push(staged(clouds, stages), path)
    put_control(clouds, control_file(bytes(range(1, 33))))
    assert push(staged(clouds, stages), path)
    assert push(staged(clouds, stages), path).already
    assert [
        each for each in caplog.messages if f"identity key {key}: Is a directory" in each and "goes on" in each
    ]
    report = push(staged(clouds, stages), clouds.file(name_of(1), segment(1, body=b"other")))
    assert "the archive has other content" in str(report.errors["r2"])


@pytest.mark.usefixtures("programs")
def test_a_base_backup_needs_no_identity_key(clouds: Clouds, stages: Stages, tmp_path: Path) -> None:
    """Its name is new, so that nobody asks whether it is the same; nor is a copy kept of what it was made with."""
    (tmp_path / "identity.key").mkdir()
    clouds.push(1, 2, 3)
    report = base_backup(staged(clouds, stages))
    assert f"base/{report.label}/base.tar.zst.age" in clouds.stored("b2")
    assert not (clouds.home / "b2/.fsbackup/keys").exists()


@pytest.mark.matrix
def test_a_state_directory_that_cannot_be_read_ends_no_archiving(identity: Path) -> None:
    """From a real server: segments and base backup are stored, and everything comes back."""
    public = pyrage.x25519.Identity.from_str(identity.read_text()).to_public()
    with temporary_home("") as home:
        encrypted = f"patience: 0.1, encrypt: {{age: [{public}]}}"
        config = CONFIG.replace("patience: 0.1", encrypted).replace("path: ", f"path: {home.path}/")
        (home.path / "fsbackup.yaml").write_text(config)
        (home.path / "identity").write_bytes(identity.read_bytes())
        (home.path / ".state").mkdir(0o000)
        with (server := Server(home).create()).running():
            server.insert(10)
            server.switch()
            assert "Permission denied" in home.fsbackup("base-backup", "shop").err
            server.insert(10)
            name = server.switch()
            pushed = home.fsbackup("wal-push", f"{server.data}/pg_wal/{name}", "--cluster", "shop", "-v")
            assert "was archived before" in pushed.out
        with (again := restored(home, "again", "--identity", str(home.path / "identity"))).running():
            again.wait_promoted()
            assert again.rows == server.committed


def test_what_was_stored_with_the_hosts_own_identity_key_is_recognised(clouds: Clouds, stages: Stages) -> None:
    """By who archived from a directory that is no data directory."""
    path = clouds.file(name_of(1), segment(1))
    assert push(staged(clouds, stages), path)
    put_control(clouds, control_file(bytes(range(1, 33))))
    assert push(staged(clouds, stages), path).already


@pytest.mark.parametrize(
    "data",
    [
        control_file(bytes(range(1, 33)), system=OTHER),
        control_file(bytes(range(1, 33)), version=960),
        control_file(bytes(32)),
        control_file(bytes(range(1, 33))).replace(b"\x01\x02", b"\x02\x01"),
        b"",
    ],
    ids=["of another cluster", "of 9.6", "made by pg_resetwal", "torn", "empty"],
)
def test_a_control_file_without_a_secret_of_the_cluster_is_not_used(clouds: Clouds, data: bytes) -> None:
    """The host's own key is the secret then."""
    put_control(clouds, data)
    assert cluster_secret(clouds.home / "pg_wal" / name_of(1), OURS) is None


def test_the_secret_is_the_nonce_of_the_cluster(clouds: Clouds, tmp_path: Path) -> None:
    """Also where `pg_wal` is a link to another disk."""
    put_control(clouds, control_file(bytes(range(1, 33))))
    (tmp_path / "elsewhere").mkdir()
    (clouds.home / "pg_wal").symlink_to(tmp_path / "elsewhere")
    path = clouds.file(name_of(1), segment(1))
    assert cluster_secret(path, OURS) == sha256(b"fsbackup wal identity\0" + bytes(range(1, 33))).digest()


def test_a_fetch_undoes_it_whatever_the_configuration_says_by_now(
    clouds: Clouds, stages: Stages, identity: Path, tmp_path: Path
) -> None:
    """What was stored before and after it changed is found; an absence and a gap are still told apart."""
    clouds.push(1, 5)
    assert push(staged(clouds, stages), clouds.file(name_of(2), segment(2)))
    target = tmp_path / "RECOVERYXLOG"
    for archive in (clouds.archive, staged(clouds, stages)):
        for number in (1, 2):
            fetch(archive, name_of(number), target, identity=identity)
            assert target.read_bytes() == segment(number)
        with pytest.raises(WalGapError):
            fetch(archive, name_of(3), target)
        with pytest.raises(ObjectNotFoundError):
            fetch(archive, name_of(6), target)


def test_without_an_identity_nothing_is_fetched_and_nothing_is_absent(
    clouds: Clouds, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FSBACKUP_AGE_IDENTITY", raising=False)
    assert push(staged(clouds, stages), clouds.file(name_of(1), segment(1)))
    with pytest.raises(ConfigError, match="no identity is given"):
        fetch(staged(clouds, stages), name_of(1), tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    assert main(["wal-fetch", name_of(1), "x", "--cluster", "shop"]) == 255


def test_a_base_backup_is_restored_and_the_status_needs_no_identity(
    clouds: Clouds, stages: Stages, identity: Path, tmp_path: Path
) -> None:
    """And `restore_command` has it."""
    assert push(staged(clouds, stages), clouds.file(name_of(1), segment(1)))
    clouds.base(1, data=tar_of(FILES), stages=stages)
    assert survey(clouds.archive).status == "complete"
    report = pg_restore(clouds.archive, tmp_path / "data", identity=identity, config="c")
    assert (tmp_path / "data/PG_VERSION").read_bytes() == FILES["PG_VERSION"]
    assert report.restore_command.endswith(f"--cluster shop --identity {identity}")
