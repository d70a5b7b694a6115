"""Secrets stay out of everything that is printed, stored or raised."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from fsbackup.config import (
    Config,
    FsspecConfig,
    InvalidConfigError,
    Mistake,
    config_schema,
    load_config,
    parse_config,
)

SECRET = "hunter2-hunter2"
TEXT = """
version: 1
backends:
  r2:
    {type: r2, account_id: acc, bucket: buck, access_key_id: "${SECRET}", secret_access_key: hunter2-hunter2,
     session_token: hunter2-hunter2}
  nas:
    type: fsspec
    url: sftp://nas/x
    options: {password: "${SECRET}", port: 22, more: {token: hunter2-hunter2}}
"""


@pytest.fixture
def config() -> Config:
    """A configuration with secrets from the file and from the environment."""
    return parse_config(TEXT, environ={"SECRET": SECRET})


def test_nothing_printed_holds_a_secret(config: Config) -> None:
    """repr, str, show, dumps and the schema are free of secrets."""
    shown = [repr(config), str(config), str(config.show()), config.model_dump_json(), str(config.model_dump())]
    assert not [text for text in [*shown, json.dumps(config_schema())] if SECRET in text]


def test_show_masks_every_secret(config: Config) -> None:
    """Keys and all options of an fsspec backend are shown as ten stars, the rest as it is."""
    backends = config.show()["backends"]
    for name in ("access_key_id", "secret_access_key", "session_token"):
        assert backends["r2"][name] == "*" * 10
    assert backends["nas"]["options"] == {"password": "*" * 10, "port": "*" * 10, "more": "*" * 10}
    assert backends["r2"]["bucket"] == "buck"


def test_options_are_there_for_who_opens_the_filesystem(config: Config) -> None:
    """`storage_options` gives the values in the clear."""
    nas = config.backends["nas"]
    assert isinstance(nas, FsspecConfig)
    assert nas.storage_options == {"password": SECRET, "port": 22, "more": {"token": SECRET}}


def test_a_config_is_not_pickled(config: Config) -> None:
    """Pickling any part is a TypeError that says to send the path instead; copying in memory works."""
    for part in (config, config.backends["r2"]):
        with pytest.raises(TypeError, match="send the path of the file"):
            pickle.dumps(part)
    assert copy.deepcopy(config) == copy.copy(config) == config


def test_a_config_does_not_change(config: Config) -> None:
    """Settings cannot be assigned."""
    with pytest.raises(ValidationError, match="frozen"):
        config.version = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        "{type: r2, account_id: '${SECRET}!', bucket: 'a/${SECRET}', access_key_id: ' ${SECRET}'}",
        "{type: r2, bucket: buck, access_key_id: [hunter2-hunter2], secret_access_key: {a: hunter2-hunter2}}",
        "{type: r2, secret_key: hunter2-hunter2, retention: hunter2-hunter2, prefix: '/${SECRET}'}",
        "{type: s3, max_concurrency: '${SECRET}', timeout: '${SECRET}', bucket: b}",
        "{type: local, path: /x, timeout: '${SECRET}', create: '${SECRET}'}",
        "{type: '${SECRET}'}",
        "hunter2-hunter2",
        "{type: fsspec, url: 'sftp://me:hunter2-hunter2@nas/x', options: hunter2-hunter2}",
        "{type: fsspec, url: 'sftp://me:x/hunter2-hunter2@nas/x'}",
        "{type: fsspec, url: '${SECRET}', options: {'a': !own hunter2-hunter2}}",
        "{type: s3, endpoint_url: 'https://me:hunter2-hunter2@h', secret_access_key: 'hunter2-hunter2\\n'}",
        "{type: s3, endpoint_url: 'https://h/?token=hunter2-hunter2', secret_access_key: hunter2-hunter2$}",
    ],
)
def test_no_error_holds_a_secret(wrong: str) -> None:
    """No message, and nothing chained to the error, shows a credential or a value from the environment."""
    text = f"""
version: 1
backends: {{x: {wrong}}}
replication: {{s: {{backends: ['${{SECRET}}'], min_copies: '${{SECRET}}', memory: '${{SECRET}}'}}}}
jobs:
  j: {{source: {{path: a}}, destination: '{{${{SECRET}}}}', replication: '${{SECRET}}', overwrite: '${{SECRET}}'}}
"""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, environ={"SECRET": SECRET})
    assert len(caught.value.problems) >= 5
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value.problems)
    assert caught.value.__context__ is None


def test_no_error_holds_what_the_environment_filled_in() -> None:
    """A setting that was left out and came from a variable is not quoted when it is wrong."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("version: 1\nbackends: {b: {type: b2}}", environ={"B2_BUCKET_NAME": f"{SECRET}/"})
    assert "backends.b.bucket: must be a bucket's name" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_error_itself_can_be_pickled() -> None:
    """The error crosses process borders with its problems."""
    error = InvalidConfigError([Mistake("c.yaml", 3, "jobs.a", "is wrong")])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems) == ("c.yaml:3: jobs.a: is wrong", error.problems)


def test_pydantics_own_error_hides_values() -> None:
    """A Config made in Python from wrong values does not print them either."""
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"version": 1, "backends": {"x": {"type": "s3", "secret_access_key": [SECRET]}}})
    assert SECRET not in str(caught.value)


def test_a_file_with_secrets_is_read_whole(tmp_path: Path) -> None:
    """A credential is taken exactly as written."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "version: 1\nbackends:\n"
        "  b: {type: b2, region: r, bucket: buck, access_key_id: '00$$a/+=', secret_access_key: s}\n"
    )
    backend = load_config(path, environ={}).backends["b"]
    assert backend.access_key_id.get_secret_value() == "00$a/+="  # type: ignore[union-attr]
