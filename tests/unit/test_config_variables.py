"""Variables in values, and settings taken from the environment."""

from __future__ import annotations

import pytest

from fsbackup.config import Config, InvalidConfigError, LocalConfig, R2Config, parse_config
from fsbackup.config.backends import B2Config

R2 = {
    "R2_ACCOUNT_ID": "acc",
    "R2_BUCKET_NAME": "buck",
    "R2_ACCESS_KEY_ID": "r2id",
    "R2_SECRET_ACCESS_KEY": "r2secret",
}
B2 = {
    "B2_BUCKET_NAME": "buck",
    "B2_REGION": "us-east-005",
    "B2_ACCESS_KEY_ID": "b2id",
    "B2_SECRET_ACCESS_KEY": "b2secret",
}


def disk(path: str, environ: dict[str, str]) -> str:
    """Return the resolved path of a local backend whose path is written as `path`."""
    config = parse_config(f"version: 1\nbackends: {{d: {{type: local, path: '{path}'}}}}", environ=environ)
    backend = config.backends["d"]
    assert isinstance(backend, LocalConfig)
    return backend.path


@pytest.mark.parametrize(
    ("written", "environ", "expected"),
    [
        ("${A}", {"A": "/x"}, "/x"),
        ("/x/${A}/${B}", {"A": "1", "B": "2"}, "/x/1/2"),
        ("${A:-/y}", {}, "/y"),
        ("${A:-/y}", {"A": ""}, "/y"),
        ("${A:-/y}", {"A": "/x"}, "/x"),
        ("/x${A:-}", {}, "/x"),
        ("/x/$$HOME/$${A}", {}, "/x/$HOME/${A}"),
        ("${A:-/a$$b}", {}, "/a$b"),
        ("${A}", {"A": "/x/${B}$$"}, "/x/${B}$$"),
    ],
)
def test_variables_are_replaced(written: str, environ: dict[str, str], expected: str) -> None:
    """${A} is A's value taken as it is, ${A:-d} has a default for unset and empty, $$ is a dollar."""
    assert disk(written, environ) == expected


def test_a_missing_variable_is_named_with_its_place() -> None:
    """An unset variable is one error with file, line, field and its name, and nothing follows from it."""
    text = """version: 1
backends:
  d:
    type: fsspec
    url: sftp://nas/x
    options:
      a: [1, {b: "${NOPE}"}]
"""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c.yaml", environ={})
    assert str(caught.value) == (
        "c.yaml:7: backends.d.options.a[1].b: needs the environment variable NOPE, which is not set "
        "(set NOPE, or write ${NOPE:-default})"
    )


@pytest.mark.parametrize("written", ["$HOME", "${A", "${}", "${1A}", "${A:?no}", "${A:-${B}}", "a$"])
def test_a_stray_dollar_is_an_error(written: str) -> None:
    """A dollar that starts no variable is refused, so that no path silently holds '$HOME'."""
    with pytest.raises(InvalidConfigError) as caught:
        disk(written, {"A": "x", "B": "y", "HOME": "/h"})
    assert caught.value.problems[0].message == (
        "has a '$' that starts no variable (write ${NAME}, ${NAME:-default} or $$)"
    )


def test_keys_are_not_expanded() -> None:
    """Variables are replaced in values only."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("version: 1\nbackends: {'${A}': {type: local}}", environ={"A": "d"})
    assert caught.value.problems[0].field == "backends.${A}"


def test_numbers_and_flags_can_come_from_variables() -> None:
    """Whole numbers, booleans, durations and sizes are read from text, too."""
    text = """
version: 1
backends: {d: {type: local, path: /d, create: "${C}", timeout: "${T}", part_size: "${P}"}}
replication: {s: {backends: [d], min_copies: "${N}"}}
"""
    config = parse_config(text, environ={"C": "no", "N": "1", "T": "1.5", "P": "1048576"})
    backend = config.backends["d"]
    assert isinstance(backend, LocalConfig)
    assert (backend.create, backend.timeout, backend.part_size) == (False, 1.5, 1 << 20)
    assert config.replication["s"].min_copies == 1


def test_clouds_come_from_their_variables() -> None:
    """r2 and b2 need nothing but their type when their environment variables are set."""
    config = parse_config("version: 1\nbackends: {r: {type: R2}, b: {type: b2}}", environ=R2 | B2)
    r2, b2 = config.backends["r"], config.backends["b"]
    assert isinstance(r2, R2Config)
    assert isinstance(b2, B2Config)
    assert (r2.account_id, r2.bucket, r2.access_key_id.get_secret_value()) == ("acc", "buck", "r2id")
    assert (b2.region, b2.bucket, b2.secret_access_key.get_secret_value()) == ("us-east-005", "buck", "b2secret")


def test_what_is_written_wins_over_the_variable() -> None:
    """A setting in the file is not replaced by its environment variable."""
    config = parse_config("version: 1\nbackends: {r: {type: r2, bucket: mine}}", environ=R2)
    assert config.show()["backends"]["r"]["bucket"] == "mine"


def test_what_is_nowhere_names_its_variable() -> None:
    """A setting that is neither written nor in the environment is an error that names the variable."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("version: 1\nbackends:\n  b: {type: b2, bucket: buck}\n", environ=B2 | {"B2_REGION": ""})
    assert str(caught.value) == "<string>:3: backends.b.region: is missing (set B2_REGION, or write it here)"


@pytest.mark.parametrize(
    ("environ", "expected"), [({}, "/var/backups/jewelry-shop"), ({"BACKUP_LOCAL_PATH": "/mnt/b"}, "/mnt/b")]
)
def test_the_local_path_has_a_variable_and_a_default(environ: dict[str, str], expected: str) -> None:
    """A local backend without a path is at $BACKUP_LOCAL_PATH or the default path."""
    config = parse_config("version: 1\nbackends: {d: {type: local}}", environ=environ)
    assert config.show()["backends"]["d"]["path"] == expected


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `environ`, variables are those of the process."""
    monkeypatch.setenv("BACKUP_LOCAL_PATH", "/mnt/c")
    config: Config = parse_config("version: 1\nbackends: {d: {type: local}}")
    assert config.show()["backends"]["d"]["path"] == "/mnt/c"
