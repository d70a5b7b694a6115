"""No secret leaves the process, by value or by shape, wherever a person put it."""

from __future__ import annotations

import json
import pickle
import traceback
from argparse import Namespace
from pathlib import Path

import pytest

from fsbackup import GenericStorage, S3Storage, redact
from fsbackup.cli import exits, render
from fsbackup.config import Config, InvalidConfigError, load_config, parse_config
from fsbackup.config.schema import write_config
from fsbackup.errors import BackendError

VALUE = "9dHk+TgRZzqYw1"
#: Each with what must not be seen of it.
SHAPES = {
    "https_proxy=http://user:PW@host:3128 answered 407": "PW",
    "{'Authorization': 'AWS4-HMAC-SHA256 Credential=x/20250101, Signature=00'}": "AWS4",
    "Proxy-Authorization: Basic dXNlcjpQVw==": "dXNl",
    "GET https://h/k?X-Amz-Credential=AKX%2F2025&X-Amz-Signature=0123abcd HTTP/1.1": "0123abcd",
    "X-Amz-Security-Token: IQoJb3JpZ2lu": "IQoJ",
    "Signature=0123456789abcdef0123": "0123456789",
    "no such key AKIAIOSFODNN7EXAMPLE": "AKIA",
    "bucket K0051Xy7Zq0PpLmNnOoQqRrSsTtUuVv refused": "K0051",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----": "b3Bl",
    f"identity AGE-SECRET-KEY-1{'Q' * 58}": "QQ",
    f"identity age-secret-key-pq-1{'q' * 58}": "qq",
    "identity AGE-PLUGIN-YUBIKEY-1QQPQ2AXSL": "QQPQ",
    "words b3BlbnNzaC1rZXktdjEAAAAABG5vbmUA AAAEbm9uZQ": "bm9u",
}
#: What is none.
PLAIN = [
    "https://127.0.0.1:9000/bucket: no answer",
    "sftp://backup@nas/backups: refused",
    "backups//a:b/c@2x.png",
    "no such command age-plugin-yubikey",
    "/etc/age-secret-key-prod-1.txt: cannot be read - it must be an age identity (AGE-SECRET-KEY-1...)",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
]


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_hidden", frozenset())


@pytest.mark.parametrize("text", SHAPES)
def test_a_secret_is_known_by_its_shape(text: str) -> None:
    shown = redact.redact(text)
    assert SHAPES[text] not in shown
    assert redact.MASK in shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact.redact(text) == text


def test_a_short_password_is_masked_as_a_word_only() -> None:
    """It may be an ordinary word, which other words contain."""
    redact.hide("back")
    assert redact.redact("fsbackup: password back is wrong") == f"fsbackup: password {redact.MASK} is wrong"


def test_an_error_and_its_pickle_hold_no_secret() -> None:
    """In message and hint, whichever library they come from; also for a program that prints its own traceback."""
    redact.hide(VALUE)
    error = BackendError(f"login {VALUE} refused", backend="r2", hint=f"not http://u:{VALUE}@h")
    told = f"{error}{error!r}{vars(error)}{''.join(traceback.format_exception(error))}{pickle.dumps(error)!r}"
    assert VALUE not in told
    assert "login ********** refused" in told


@pytest.mark.parametrize("verbose", [0, 2])
def test_a_command_that_fails_shows_no_secret(capsys: pytest.CaptureFixture[str], verbose: int) -> None:
    """In its message, its JSON and, with -vv or FSBACKUP_DEBUG, its traceback, down to a library's error."""
    redact.hide(VALUE)
    try:
        try:
            raise ValueError(f"cannot sign with {VALUE}")
        except ValueError as cause:
            raise OSError(f"http://u:PW@proxy says {VALUE}") from cause
    except OSError as error:
        exits.report_error(error, Namespace(json=True, verbose=verbose))
    out, err = capsys.readouterr()
    assert ("Traceback" in err) == (verbose > 1)
    assert "PW" not in out + err
    assert VALUE not in out + err
    assert json.loads(out)["error"]["message"].count(redact.MASK) == 2


def test_results_show_no_secret_and_keys_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    redact.hide("word")
    render.print_report([{"backend": "a", "location": "ftp://u:PW@h"}], problems=["a word"], verdict="word")
    render.print_json({"error": ["a word"], "key": "a/word"})
    render.print_key("a/word")
    out = capsys.readouterr().out
    assert "PW" not in out
    assert out.count("word") == 2
    assert out.count("a/word") == 2


def config(backend: str) -> Config:
    """Return a configuration with one backend."""
    return parse_config(f"version: 1\nbackends: {{x: {backend}}}", environ={"MY_SECRET": VALUE})


@pytest.mark.parametrize(
    "backend",
    [
        "{type: s3, bucket: b-1, access_key_id: kkkk, secret_access_key: ssss, "
        "endpoint_url: 'https://h/9dHkXTgRZzqYw1Abc/x'}",
        "{type: fsspec, url: 'sftp://9dHkXTgRZzqYw1Abc@h/x'}",
        "{type: s3, bucket: 9dHkXTgRZzqYw1Abc, access_key_id: kkkk, secret_access_key: ssss}",
        "{type: s3, bucket: b-1, region: 9dHkXTgRZzqYw1Abc, access_key_id: kkkk, secret_access_key: ssss}",
    ],
)
def test_a_token_in_the_wrong_field_is_not_shown(backend: str) -> None:
    """By `config show`, a repr, a place that is printed, or an error that names the address."""
    made = config(backend)
    error = BackendError("https://9dHkXTgRZzqYw1Abc.s3.example.com: no such host")
    shown = f"{made!r}{made}{made.backends['x']!r}{made.show()}{write_config(made)}{error}"
    assert "9dHkXTgRZzqYw1Abc" not in shown
    assert redact.MASK in shown


def test_a_backend_made_in_python_shows_no_token() -> None:
    made = [
        S3Storage("b-1", access_key_id="k", secret_access_key="s", endpoint_url="https://h/9dHkXTgRZzqYw1Abc"),
        GenericStorage("memory://9dHkXTgRZzqYw1Abc@h/x"),
    ]
    assert "9dHkXTgRZzqYw1Abc" not in "".join(f"{each!r}{each.location}" for each in made)


@pytest.mark.parametrize(
    "backend",
    [
        "{type: s3, bucket: 'a/9dHkXTgRZzqYw1Abc', access_key_id: k, secret_access_key: s}",
        "{type: s3, bucket: K0051Xy7Zq0PpLmNnOoQqRrSsTtUuVv/, access_key_id: k, secret_access_key: s}",
        "{type: s3, bucket: ok, region: '9dHk+TgRZzqYw1Abc', access_key_id: k, secret_access_key: s}",
        "{type: s3, bucket: 'sss/sss', access_key_id: k, secret_access_key: sss/sss}",
        "{type: local, path: x, timeout: '${MY_SECRET}'}",
    ],
)
def test_an_error_does_not_repeat_a_misplaced_secret(backend: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        config(backend)
    told = "".join(traceback.format_exception(caught.value))
    assert not [text for text in ("9dHk", "K0051", "sss/sss", VALUE) if text in told]


def test_the_value_of_a_variable_for_a_secret_is_masked_in_any_field() -> None:
    assert VALUE not in str(config("{type: local, path: '/srv/${MY_SECRET}'}").show())


# --- secrets in files of their own ------------------------------------------------------------------------------

FILES = """
version: 1
backends:
  x: {type: s3, bucket: bbb, access_key_id_file: ~/id, secret_access_key_file: secret, session_token_file: ~/token}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a directory with a file for each secret."""
    for name, content in {"id": "the-id\n", "secret": "the-secret\nmore\n", "token": " the-token "}.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_secret_is_the_first_line_of_its_file(files: Path) -> None:
    made = parse_config(FILES, environ={"HOME": str(files)}, directory=files).backends["x"]
    found = [
        getattr(made, name).get_secret_value() for name in ("access_key_id", "secret_access_key", "session_token")
    ]
    assert found == ["the-id", "the-secret", "the-token"]
    assert redact.redact("with the-secret") == f"with {redact.MASK}"


def test_a_file_comes_before_the_environment(files: Path) -> None:
    backend = "{type: b2, bucket: bbb, region: r, access_key_id: k, secret_access_key_file: secret}"
    text = f"version: 1\nbackends: {{x: {backend}}}"
    made = parse_config(text, environ={"B2_SECRET_ACCESS_KEY": "other"}, directory=files).backends["x"]
    assert getattr(made, "secret_access_key").get_secret_value() == "the-secret"  # noqa: B009 - of one type only


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("secret,", "absent,"), "secret_access_key_file: .*absent cannot be read: No such file"),
        (("secret,", ".,"), "secret_access_key_file: .* cannot be read: Is a directory"),
        (("secret,", "empty,"), "secret_access_key_file: .*empty has an empty first line"),
        (("bbb,", "bbb, session_token: t,"), "session_token_file: is given, and session_token too"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(files: Path, change: tuple[str, str], problem: str) -> None:
    (files / "empty").write_text("\nsecond\n")
    with pytest.raises(InvalidConfigError, match=problem) as caught:
        parse_config(FILES.replace(*change), environ={"HOME": str(files)}, directory=files)
    assert len(caught.value.problems) == 1


# --- what is warned of ------------------------------------------------------------------------------------------

LITERAL = "{type: s3, bucket: bbb, access_key_id: kkkk, secret_access_key: ssss, endpoint_url: 'URL'}"


def warnings_of(path: Path, backend: str, mode: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what loading a file says."""
    path.write_text(f"version: 1\nbackends: {{x: {backend}}}")
    path.chmod(mode)
    load_config(path, environ={"SET": "ssss"})
    return caplog.messages


@pytest.mark.parametrize(
    ("backend", "mode", "warned"),
    [
        (LITERAL, 0o644, True),
        (LITERAL, 0o640, False),
        (LITERAL.replace("kkkk", "'${SET}'").replace("ssss", "'${SET}'"), 0o644, False),
        ("{type: fsspec, url: 'memory://x', options: {password: ssss}}", 0o644, True),
        ("{type: fsspec, url: 'memory://x', options: {username: ssss}}", 0o644, False),
    ],
)
def test_secrets_that_every_user_can_read_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str, mode: int, warned: bool
) -> None:
    said = warnings_of(tmp_path / "c.yaml", backend.replace("URL", "https://h.example"), mode, caplog)
    load_config(tmp_path / "c.yaml", environ={"SET": "ssss"})  # again, and it is not said again
    assert len(said) == warned
    assert all("chmod 600" in line and "ssss" not in line for line in said)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://s3.example.com", True),
        ("http://8.8.8.8:9000", True),
        ("https://s3.example.com", False),
        ("http://localhost:9000", False),
        ("http://minio:9000", False),
        ("http://nas.lan", False),
        ("http://[::1]:9000", False),
        ("http://192.168.1.5:9000", False),
    ],
)
def test_a_way_without_tls_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, url: str, warned: bool
) -> None:
    said = warnings_of(tmp_path / "c.yaml", LITERAL.replace("URL", url), 0o600, caplog)
    assert [("without TLS" in line and "backends.x.endpoint_url" in line) for line in said] == [True] * warned


def test_fsspecs_own_configuration_is_not_a_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables and files of this machine that were made for a data lake."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setitem(fsspec.config.conf, "memory", {"password": "of the lake"})
    assert fsspec.filesystem("memory").storage_options == {"password": "of the lake"}
    assert GenericStorage("memory://x").fs.storage_options == {}
