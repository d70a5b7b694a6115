"""`put`, `get` and `run` with compression and encryption, as a person types them."""

from __future__ import annotations

from pathlib import Path

import pyrage
import pytest

from tests.integration.cli_helpers import Cli

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path)
    (tmp_path / "key.txt").write_text(f"{IDENTITY}\n")
    (tmp_path / "recipients").write_text(f"{IDENTITY.to_public()}\n")
    (tmp_path / "note").write_text("a note\n" * 1000)
    return made


PUT = ("put", "note", "db/note", "--compress", "zstd:9", "--encrypt", "file:recipients")


def test_put_and_get(cli: Cli) -> None:
    """What is stored, under which key; again, and nothing is sent; and back, by name and into a directory."""
    done = cli(*PUT)
    assert (done.code, "complete: db/note.zst.age (6.8 KiB, stored as " in done.out) == (0, True), done
    assert cli(*PUT).out.count("already stored") == 3
    assert "stages      zstd, age; 7,000 bytes before" in cli("stat", "db/note.zst.age").out
    (cli.home / "into").mkdir()
    assert cli("get", "db/note.zst.age", "into", "--identity", "key.txt").code == 0
    assert (cli.home / "into/note").read_text() == "a note\n" * 1000
    assert cli("get", "db/note.zst.age", "-", "--identity", "key.txt").out == "a note\n" * 1000
    tree = cli("get", "-r", "db", "tree", env={"FSBACKUP_AGE_IDENTITY": str(cli.home / "key.txt")})
    assert (tree.code, (cli.home / "tree/note").read_text()) == (0, "a note\n" * 1000)
    assert cli("get", "db/note.zst.age", "raw", "--raw").code == 0
    assert (cli.home / "raw").read_bytes() == (cli.home / "disk1/db/note.zst.age").read_bytes()


def test_json_has_both_sizes(cli: Cli) -> None:
    stored = cli(*PUT, "--json").json()
    assert (stored["key"], stored["plain_size"]) == ("db/note.zst.age", 7000)
    assert stored["size"] < 1000
    got = cli("get", "db/note.zst.age", "out", "--identity", "key.txt", "--json").json()
    assert (got["target"], got["plain_size"], got["size"]) == ("out", 7000, stored["size"])


def test_stat_has_the_stages_and_both_sizes(cli: Cli) -> None:
    """As JSON, too; of what is stored as it is, none."""
    stored = cli(*PUT, "--json").json()
    found = cli("stat", "db/note.zst.age", "--json").json()
    assert (found["stages"], found["plain_size"], found["size"]) == (["zstd", "age"], 7000, stored["size"])
    assert cli("put", "note", "plain").code == 0
    found = cli("stat", "plain", "--json").json()
    assert (found["stages"], found["plain_size"], found["size"]) == ([], None, 7000)


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        (("--compress", "zstd"), ".zst"),
        (("--encrypt", "file:recipients"), ".age"),
        (("--compress", "zstd", "--encrypt", "file:recipients"), ".zst.age"),
    ],
)
def test_a_key_without_its_suffix_is_told_the_name_that_is_there(
    cli: Cli, options: tuple[str, ...], suffix: str
) -> None:
    """It is what was typed to store it; an object that was deleted is not named."""
    assert cli("put", "note", "db/note", *options).code == 0
    done = cli("get", "db/note", "out")
    assert (done.code, f"it is stored compressed or encrypted: get db/note{suffix}\n" in done.err) == (4, True), (
        done
    )
    assert cli("get", "db/note", "out", "--json").json()["error"]["hint"].endswith(f"get db/note{suffix}")
    assert cli("rm", f"db/note{suffix}").code == 0
    assert "stored compressed" not in cli("get", "db/note", "out").err


def test_what_is_encrypted_already_is_not_called_compressed(cli: Cli) -> None:
    assert cli("put", "note", "x", "--encrypt", "file:recipients").code == 0
    (cli.home / "secret.age").write_bytes((cli.home / "disk1/x.age").read_bytes())
    said = cli("put", "secret.age", "y", "--compress", "zstd").err
    assert "secret.age: looks encrypted already (age); compressing it again rarely saves anything" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("get", "db/note.zst.age", "out"), "it is encrypted, and no identity is given"),
        (("get", "db/note.zst.age", "out", "--identity", "note"), "note: has no private key that age can use"),
        (("get", "db/note.zst.age", "out", "--identity", "no"), "identity no: cannot be read"),
        (("get", "db/note.zst.age", "out", "--identity", "key.txt", "--raw"), "--raw decrypts nothing"),
        (("put", "note", "x", "--compress", "gzip"), "expected zstd, or with a level zstd:9, got 'gzip'"),
        (("put", "note", "x", "--compress", "zstd:20"), "from 1 to 19, not 20"),
        (("put", "note", "x", "--encrypt", "age1x"), "a recipient must be a public key"),
        (("put", "note", "x", "--encrypt", str(IDENTITY)), "a recipient is a private key"),
        (("put", "note", "x", "--encrypt", "file:key.txt"), "a line is a private key"),
    ],
)
def test_what_is_wrong_is_said(cli: Cli, arguments: tuple[str, ...], expected: str) -> None:
    """With what to do; nothing is stored or restored, and no secret is printed."""
    assert cli(*PUT).code == 0
    done = cli(*arguments)
    assert (done.code, expected in done.err) == (2, True), done
    assert str(IDENTITY)[16:] not in done.err + done.out
    assert not (cli.home / "out").exists()
    assert not (cli.home / "disk1/x").exists()


def test_an_extra_that_is_missing_is_named(cli: Cli) -> None:
    """As after an installation without it; what needs none of it goes on."""
    (cli.home / "without/pyrage").mkdir(parents=True)
    (cli.home / "without/pyrage/__init__.py").write_text("raise ImportError('No module named pyrage')")
    env = {"PYTHONPATH": f"{cli.home / 'without'}:{cli.environ['PYTHONPATH']}"}
    done = cli(*PUT, env=env)
    assert (done.code, "pip install 'fsbackup[age]'" in done.err) == (2, True), done
    assert cli("put", "note", "x", "--compress", "zstd", env=env).code == 0
