"""`wal-push` and `wal-fetch` as PostgreSQL runs them: their exit codes are what it acts on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsbackup.cli import main
from tests.integration.cli_helpers import Cli
from tests.postgres.segments import OTHER, Clouds, name_of, segment

CONFIG = """\
version: 1
backends:
  r2: {type: local, path: r2}
  b2: {type: local, path: b2}
replication:
  wal: {backends: [r2, b2], min_copies: 1}
postgres:
  shop: {replication: wal, prefix: pg/shop, patience: 0.1}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A directory that is PostgreSQL's data directory, too, as far as restore_command sees it."""
    made = Cli(tmp_path)
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    (tmp_path / "PG_VERSION").write_text("15\n")
    (tmp_path / "pg_wal").mkdir()
    return made


def fetch(cli: Cli, name: str, *more: str) -> int:
    """Return the exit code of a restore_command."""
    return cli("wal-fetch", name, "pg_wal/RECOVERYXLOG", "--cluster", "shop", *more).code


def test_a_push_says_nothing_and_ends_with_0(cli: Cli, clouds: Clouds) -> None:
    """The same again, too: PostgreSQL's log stays empty. With -v and --json it reports."""
    path = str(clouds.file(name_of(1), segment(1)))
    for _ in range(2):
        done = cli("wal-push", path, "--cluster", "shop")
        assert (done.code, done.out, done.err) == (0, "", "")
    assert "was archived before" in cli("wal-push", path, "--cluster", "shop", "-v").out
    assert cli("wal-push", path, "--cluster", "shop", "--json").json()["status"] == "complete"


def test_a_degraded_push_is_0_and_logged(cli: Cli, clouds: Clouds) -> None:
    """PostgreSQL goes on, its log says what is missing."""
    clouds.push(1)
    clouds.take_away("b2")
    done = cli("wal-push", str(clouds.file(name_of(2), segment(2))), "--cluster", "shop")
    assert done.code == 0
    assert f"degraded: pg/shop/wal/{name_of(2)} archived on 1 backend, not on all" in done.err
    assert "b2: " in done.err


def test_a_push_that_fails_is_never_above_125(cli: Cli, clouds: Clouds) -> None:
    """Other content, another cluster, no such file, wrong words: PostgreSQL tries again."""
    clouds.push(1)
    other = clouds.file(name_of(1), segment(1, body=b"other"))
    foreign = clouds.file(name_of(2), segment(2, system=OTHER))
    for path, code in ((other, 1), (foreign, 1), (clouds.home / name_of(3), 1), (other.parent, 1)):
        done = cli("wal-push", str(path), "--cluster", "shop")
        assert (done.code, done.out) == (code, "")
        assert done.err
    assert cli("wal-push", str(other), "--cluster", "shpo").code == 2
    assert cli("wal-push", "--clutser", "shop").code == 2


def test_a_fetch_ends_with_0_1_or_255(cli: Cli, clouds: Clouds) -> None:
    """There; proven absent; a gap."""
    clouds.push(1, 3)
    assert fetch(cli, name_of(1)) == 0
    assert (cli.home / "pg_wal/RECOVERYXLOG").read_bytes() == segment(1)
    assert fetch(cli, name_of(4)) == 1
    assert fetch(cli, "00000002.history") == 1
    assert fetch(cli, name_of(2)) == 255


def test_a_fetch_makes_no_directory(cli: Cli, clouds: Clouds) -> None:
    """PostgreSQL names a file where it has a directory; another path is mistyped, on a standby, too."""
    clouds.push(1)
    (cli.home / "standby.signal").touch()
    for name in (name_of(1), name_of(2)):
        done = cli("wal-fetch", name, "pg_wall/x", "--cluster", "shop")
        assert done.code == 255
        assert f"{cli.home}/pg_wall is no directory; {name} is not fetched" in done.err
    assert not (cli.home / "pg_wall").exists()


def test_whatever_is_no_proof_is_255(cli: Cli, clouds: Clouds) -> None:
    """An outage, a rotten segment, a name that is none, wrong settings, wrong words, no configuration."""
    clouds.push(1, 2)
    for cloud in ("r2", "b2"):
        (clouds.home / cloud / "pg/shop/wal" / name_of(1)).write_bytes(b"rotten")
    assert fetch(cli, name_of(1)) == 255
    assert fetch(cli, "postgresql.conf") == 255
    assert fetch(cli, name_of(3), "--trust", "b3") == 255
    assert fetch(cli, name_of(3), "--no-such-option") == 255
    assert cli("wal-fetch", name_of(3), "x", "--cluster", "shpo").code == 255
    assert cli("-c", "missing.yaml", "wal-fetch", name_of(3), "x", "--cluster", "shop").code == 255
    clouds.take_away("b2")
    assert fetch(cli, name_of(3)) == 255
    assert fetch(cli, name_of(3), "--trust", "r2") == 1
    (cli.home / "fsbackup.yaml").write_text("version: 2")
    assert fetch(cli, name_of(2)) == 255


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://nowhere.invalid"])
def test_an_address_where_nobody_is_proves_no_absence(cli: Cli, url: str) -> None:
    """Refused, or a name that does not resolve."""
    bucket = (
        f"{{type: s3, endpoint_url: '{url}', bucket: wal-b2, access_key_id: id, secret_access_key: made-up-word, "
    )
    config = CONFIG.replace("{type: local, path: b2}", bucket + "region: us-east-1, timeout: 1}")
    (cli.home / "fsbackup.yaml").write_text(config)
    assert fetch(cli, name_of(1)) == 255


def test_a_standby_asks_again(cli: Cli, clouds: Clouds) -> None:
    """255 would end it. What is wrong with the configuration ends it all the same."""
    clouds.push(1, 3)
    (cli.home / "standby.signal").touch()
    done = cli("wal-fetch", name_of(2), "pg_wal/RECOVERYXLOG", "--cluster", "shop")
    assert done.code == 1
    assert "this is a standby, which asks again" in done.err
    assert "has a gap" in done.err
    clouds.take_away("b2")
    assert fetch(cli, name_of(4)) == 1
    (cli.home / "fsbackup.yaml").write_text("version: 2")
    assert fetch(cli, name_of(4)) == 255


def test_an_installation_that_does_not_load_is_no_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python ends with 1 when an import fails, as in the middle of an upgrade."""
    monkeypatch.setitem(__import__("sys").modules, "fsbackup.cli.app", None)
    assert main(["wal-fetch", "a", "b", "--cluster", "shop"]) == 255
    with pytest.raises(ImportError):
        main(["wal-push", "a", "--cluster", "shop"])


def test_the_report_of_a_fetch(cli: Cli, clouds: Clouds) -> None:
    """As JSON, also of a failure."""
    clouds.push(1, 3)
    words = ("pg_wal/x", "--cluster", "shop", "--json")
    assert cli("wal-fetch", name_of(1), *words).json()["verified"] is True
    assert json.loads(cli("wal-fetch", name_of(2), *words).out)["error"]["type"] == "WalGapError"
