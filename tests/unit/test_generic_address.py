"""URLs and options of generic backends: what is refused, and that no option is ever shown."""

from __future__ import annotations

import logging
import pickle
import sys
import traceback
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fsbackup.backends import GenericStorage
from fsbackup.errors import BackendError, ConfigError
from fsbackup.loop import run
from fsbackup.stores.generic.store import GenericStore

SECRET = "hunter2-very-secret"


class LeakyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Says its password in every error."""

    protocol = "leaky"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._texts = [str(value) for value in options.values()]

    @staticmethod
    def _get_kwargs_from_urls(urlpath: str) -> dict[str, Any]:
        return {"from_url": SECRET} if SECRET in urlpath else {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].rpartition("@")[2] if "://" in path else path

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise OSError(f"cannot log in to {path} with {self._texts}")


@pytest.fixture(autouse=True)
def leaky() -> None:
    """Make ``leaky://`` known to fsspec."""
    fsspec.register_implementation("leaky", LeakyFileSystem, clobber=True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not an fsspec URL"),
        ("/var/backups", "not an fsspec URL"),
        ("://x", "not an fsspec URL"),
        ("s3://bucket/x", "use type s3, r2 or b2"),
        ("s3a://bucket/x", "use type s3, r2 or b2"),
        ("file:///var/backups", "use type local"),
        ("local:///var/backups", "use type local"),
        ("simplecache::sftp://nas/x", "chain"),
        ("sftp://nas/x::memory://y", "chain"),
        ("filecache://x", "wraps another"),
        ("fsbackup://triple/x", "wraps another"),
        ("nonsense://x", "no protocol 'nonsense'"),
        ("memory://a*b", "pattern characters"),
        ("memory://a/[1]", "pattern characters"),
        ("memory://a?b", "pattern characters"),
    ],
)
def test_refused_urls(url: str, says: str) -> None:
    """A URL that cannot keep backups is a ConfigError that says what to do instead."""
    with pytest.raises(ConfigError) as caught:
        GenericStorage(url)
    assert says in str(caught.value)


@pytest.mark.parametrize("protocol", ["sftp", "ssh"])
def test_missing_package(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """A protocol whose package is not installed names the package and the extra that has it."""
    monkeypatch.setitem(sys.modules, "paramiko", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    # As if it had never been asked for: fsspec keeps the classes that it has loaded.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(ConfigError, match="paramiko") as caught:
        GenericStorage(f"{protocol}://nas/backups")
    assert caught.value.hint == 'pip install "fsbackup[sftp]"'


def test_options_that_do_not_fit() -> None:
    """An option that the filesystem does not know is a ConfigError, not a crash somewhere below."""
    store = GenericStore("ftp://nas/x", options={"nonsense": SECRET, "host": object()})
    with pytest.raises(ConfigError, match="does not take these options"):
        run(store.stat("a"))


def test_confirm_is_checked() -> None:
    """Only the two ways to confirm are taken."""
    with pytest.raises(ConfigError, match="checksum"):
        GenericStorage("memory://x", confirm="maybe")  # type: ignore[arg-type]


def test_name() -> None:
    """The name is the protocol's unless given."""
    assert (GenericStorage("memory://x").name, GenericStorage("memory://x", name="nas").name) == ("memory", "nas")


def test_constructing_connects_to_nothing() -> None:
    """A backend can be made while its server is down."""
    assert GenericStorage("sftp://no-such-host.invalid/x").location == "sftp://no-such-host.invalid/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://x/y", "memory://x/y"),
        (f"leaky://user:{SECRET}@host/x", "leaky://user:***@host/x"),
        (f"leaky://user:{SECRET}@host:22/x", "leaky://user:***@host:22/x"),
        ("leaky://user@host/x", "leaky://user@host/x"),
    ],
)
def test_location_has_no_password(url: str, shown: str) -> None:
    """The place is shown without the password in it."""
    assert GenericStorage(url).location == shown


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("leaky://host/x", {"password": SECRET}),
        ("leaky://host/x", {"pkey": SECRET.encode()}),
        ("leaky://host/x", {"client_kwargs": {"headers": [SECRET]}}),
        (f"leaky://user:{SECRET}@host/x", {}),
    ],
)
def test_secrets_are_shown_nowhere(url: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Neither repr, errors, tracebacks nor logs have a secret in them, whatever the library says."""
    caplog.set_level(logging.DEBUG)
    backend = GenericStorage(url, options=options, errors="raise")
    with pytest.raises(BackendError) as caught:
        backend.exists("a/b")
    texts = [repr(backend), repr(backend.store), str(vars(backend.store)), backend.location, caplog.text]
    texts += traceback.format_exception(caught.value)
    texts += [repr(vars(caught.value)), repr(caught.value.__cause__), repr(caught.value.__context__)]
    assert "cannot log in" in str(caught.value)
    assert SECRET not in "".join(texts)


def test_harmless_options_stay_readable() -> None:
    """Host and user are what a person needs to read in an error."""
    store = GenericStore("leaky://host/x", options={"host": "nas", "username": "backup"})
    with pytest.raises(BackendError, match=r"nas.*backup"):
        run(store.stat("a"))


def test_a_backend_with_options_is_not_pickled() -> None:
    """Pickling would copy the credentials, so it is refused."""
    backend = GenericStorage("leaky://host/x", options={"password": SECRET})
    for each in (backend, backend.store):
        with pytest.raises(TypeError):
            pickle.dumps(each)
