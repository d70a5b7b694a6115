"""Log lines: their fields, their two formats, and no secret in any of them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import fsbackup
from fsbackup import events, redact
from fsbackup.cli import logs
from fsbackup.config import parse_config
from fsbackup.errors import BackendError

SECRET = 'p"ss/w+rd é'


Shown = Callable[[], str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shown]:
    """Return a function that reads standard error; logging and secrets are restored afterwards."""
    monkeypatch.setattr(redact, "_hidden", frozenset())
    root, ours = logging.getLogger(), logging.getLogger("fsbackup")
    before = (root.handlers[:], root.level, ours.level)
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(False)
    root.handlers[:], root.level, ours.level = before
    root.setLevel(before[1])


def upload_event(error: Exception | None = None) -> None:
    """Log the end of an upload."""
    events.log_outcome("upload", "r2", "a/b", size=10, seconds=0.5, error=error)


def test_text_lines_have_the_fields_that_the_message_lacks(shown: Shown) -> None:
    """Time, level, message, then the structured fields."""
    logs.configure(verbosity=1, form="text")
    upload_event()
    assert shown()[8:] == " INFO    upload ok: r2 a/b size=10 seconds=0.5\n"


def test_json_lines_have_every_field(shown: Shown) -> None:
    """One object per line, for monitoring."""
    logs.configure(verbosity=0, form="json")
    upload_event(BackendError("it is broken", backend="r2"))
    [line] = shown().splitlines()
    found = json.loads(line)
    assert found.pop("time")[:2] == "20"
    assert found == {
        "level": "ERROR",
        "logger": "fsbackup.storage",
        "message": "upload failed: r2 a/b: it is broken",
        "backend": "r2",
        "operation": "upload",
        "key": "a/b",
        "size": 10,
        "seconds": 0.5,
        "outcome": "failed",
        "error_type": "BackendError",
        "error": "r2: it is broken",
    }


@pytest.mark.parametrize(
    ("verbosity", "levels"),
    [
        (-1, ["ERROR"]),
        (0, ["ERROR", "WARNING"]),
        (1, ["ERROR", "WARNING", "INFO"]),
        (2, ["ERROR", "WARNING", "INFO", "DEBUG"]),
    ],
)
def test_levels(shown: Shown, verbosity: int, levels: list[str]) -> None:
    """Silent on success by default, so that cron mails failures only; each -v shows more."""
    logs.configure(verbosity=verbosity, form="json")
    for level in ("ERROR", "WARNING", "INFO", "DEBUG"):
        logging.getLogger("fsbackup.x").log(getattr(logging, level), "line")
    assert [json.loads(line)["level"] for line in shown().splitlines()] == levels


@pytest.mark.parametrize("name", ["botocore.endpoint", "aiobotocore", "stamina", "asyncio"])
def test_other_libraries_are_logged_from_warning_level_on(shown: Shown, name: str) -> None:
    """Below that level they log requests and their headers, also with -vv."""
    logs.configure(verbosity=2, form="text")
    logging.getLogger(name).debug("headers")
    logging.getLogger(name).info("headers")
    logging.getLogger(name).warning("trouble")
    assert [line[9:] for line in shown().splitlines()] == ["WARNING trouble"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_configured_secret_gets_into_a_line(shown: Shown, form: str) -> None:
    """In no spelling: message, argument, field, traceback."""
    logs.configure(verbosity=2, form=form)
    parse_config(
        f"""
version: 1
backends:
  s: {{type: s3, bucket: bbb, access_key_id: the-access-key, secret_access_key: {json.dumps(SECRET)}}}
  f: {{type: fsspec, url: "sftp://nas/x", options: {{username: backup, password: the-password, port: 22}}}}
""",
        environ={},
    )
    log = logging.getLogger("fsbackup.x")
    for secret in (
        SECRET,
        quote(SECRET, safe=""),
        repr(SECRET),
        json.dumps(SECRET),
        "the-access-key",
        "the-password",
    ):
        log.error("message %s", secret, extra={"error": secret, "key": secret})
        try:
            raise ValueError(secret)
        except ValueError:
            log.exception("traceback")
    logging.getLogger("botocore").warning("signed with %s", SECRET)
    text = shown()
    for secret in (SECRET, "ss/w+rd", "ss%2Fw", "the-access-key", "the-password"):
        assert secret not in text
    assert text.count(redact.MASK) > 10


def test_public_settings_are_not_masked(shown: Shown) -> None:
    """Paths, buckets and user names."""
    logs.configure(verbosity=0, form="text")
    parse_config(
        """
version: 1
backends:
  d: {type: local, path: /srv/backup}
  f: {type: fsspec, url: "sftp://nas/x", options: {username: backup, port: 22, a: no}}
""",
        environ={},
    )
    logging.getLogger("fsbackup.x").error("no /srv/backup on port 22")
    assert "no /srv/backup on port 22" in shown()


def test_a_dead_backend_does_not_fill_the_screen(shown: Shown) -> None:
    """Three errors of a kind, the last with a note that more are dropped; other kinds are not dropped."""
    logs.configure(verbosity=0, form="text")
    for _ in range(10):
        upload_event(BackendError("away"))
    events.log_outcome("upload", "b2", "a/b", error=BackendError("away"))
    lines = shown().splitlines()
    assert len(lines) == 4
    assert "further ones of this kind" in lines[2]
    assert "b2" in lines[3]


def test_nor_do_warnings_about_it(shown: Shown) -> None:
    """Those about no backend are all shown."""
    logs.configure(verbosity=0, form="text")
    for number in range(10):
        events.log.warning("%d goes on without r2", number, extra={"backend": "r2", "operation": "download"})
        events.log.warning("%d is strange", number)
    text = shown()
    assert (text.count("without r2"), text.count("strange")) == (3, 10)


@pytest.mark.parametrize(("verbosity", "form"), [(1, "text"), (0, "json")])
def test_every_error_is_logged_with_v_and_as_json(shown: Shown, verbosity: int, form: str) -> None:
    """Repeats are dropped in the short text form only."""
    logs.configure(verbosity=verbosity, form=form)
    for _ in range(10):
        upload_event(BackendError("away"))
    assert len(shown().splitlines()) == 10


def test_a_line_break_in_a_name_makes_no_second_line(shown: Shown) -> None:
    """Nor does an escape sequence reach the terminal."""
    logs.configure(verbosity=0, form="text")
    logging.getLogger("fsbackup.x").error("a\nb\x1b[31m")
    assert shown()[9:] == "ERROR   a\\nb\\x1b[31m\n"


def test_a_library_user_gets_no_output_from_us() -> None:
    """Without a log handler of the application, a failure prints nothing."""
    code = (
        "import fsbackup\n"
        "backend = fsbackup.LocalStorage('/proc/version/no-directory')\n"
        "assert backend.upload(fsbackup.__file__, 'k') is False\n"
    )
    root = str(Path(fsbackup.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={"PYTHONPATH": root}, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
