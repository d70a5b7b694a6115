"""What errors say: the operation and key that were asked for, who did not answer, and each reason once."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.cli import main
from fsbackup.errors import AccessDeniedError, BackendUnavailableError, FsbackupError, NoHealthyReplicaError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.replication.batch import LIST_FROM
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import MemoryStore, backend
from tests.replication.raw_replicas import MARKER, mark

CONFIG = """\
version: 1
backends:
  a: {type: local, path: a}
  b: {type: local, path: b}
  c: {type: local, path: c}
replication:
  set: {backends: [a, b, c], min_copies: 2}
"""


class Away(MemoryStore):
    """A service that answers nothing."""

    kind: type[FsbackupError] = BackendUnavailableError

    def _error(self, operation: str, key: str) -> FsbackupError:
        return self.kind(
            "no route to host", backend=self.name, operation=operation, key=key, hint="check the cable"
        )

    async def stat(self, name: str) -> ObjectStat | None:
        raise self._error("stat", name)

    async def read(self, name: str, start: int = 0, end: int | None = None, **_: object) -> bytes:  # noqa: ARG002
        raise self._error("read", name)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:  # noqa: ARG002
        raise self._error("list", prefix)
        yield


class Refusing(Away):
    """A service that refuses the credentials."""

    kind = AccessDeniedError


def storage(*stores: MemoryStore) -> ReplicatedStorage:
    """Return a set in use of which one copy is enough."""
    for number, each in enumerate(stores):
        each.place(MARKER, mark(number))
    return ReplicatedStorage([backend(each) for each in stores], min_copies=1, errors="raise")


READS: dict[str, Callable[[ReplicatedStorage], Any]] = {
    "download": lambda store: store.restore("k", io.BytesIO()),
    "stat": lambda store: store.stat("k"),
    "exists": lambda store: store.exists("k"),
}


@pytest.mark.parametrize("operation", READS)
@pytest.mark.parametrize("kind", [Away, Refusing])
def test_no_answer_is_not_an_answer(operation: str, kind: type[Away]) -> None:
    """Nobody has said that the key is absent; all are named, with one reason and one hint."""
    with pytest.raises(NoHealthyReplicaError) as caught:
        READS[operation](storage(kind("a"), kind("b"), kind("c")))
    reason, hint = "no route to host", "check the cable; try again when more replicas answer"
    assert str(caught.value) == f"{operation} 'k': no replica answered: a, b, c: {reason} - {hint}"


@pytest.mark.parametrize("operation", READS)
def test_who_answered_is_named(operation: str) -> None:
    """Beside those that did not."""
    with pytest.raises(NoHealthyReplicaError) as caught:
        READS[operation](storage(MemoryStore("a"), Away("b"), Away("c")))
    known = f"{operation} 'k': not found on a, but too few answered: b, c: no route to host - "
    assert str(caught.value).startswith(known)


@pytest.mark.parametrize("prefix", ["", "p"])
def test_a_listing_names_each_reason_once(prefix: str) -> None:
    """Where no replica can be listed, and below which prefix."""
    below = f" '{prefix}'" if prefix else ""
    for listing in (ReplicatedStorage.status, ReplicatedStorage.verify, lambda store, at: list(store.ls(at))):
        with pytest.raises(NoHealthyReplicaError) as caught:
            listing(storage(Away("a"), Away("b")), prefix)
        assert (
            str(caught.value) == f"list{below}: no replica can be listed: a, b: no route to host - check the cable"
        )


@pytest.mark.parametrize("objects", [3, LIST_FROM])
def test_an_error_of_a_key_does_not_quote_another(objects: int) -> None:
    """What one call found out of a service is said of the keys after it without that call's own."""
    keys = [f"key-{number}" for number in range(100, 100 + objects)]
    done = storage(MemoryStore("a"), Away("b")).replicate_many([(io.BytesIO(b"x"), key) for key in keys])
    for result in done:
        assert result.report is not None
        assert result.report.status == "degraded"
        text = result.report.replicas["b"].error
        assert text is not None
        assert [key for key in keys if key in text] in ([], [result.report.key])


@pytest.fixture
def all_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in a directory with a configuration whose disks are no directories."""
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    (tmp_path / "file").write_bytes(b"x")
    for name in "abc":
        (tmp_path / name).write_bytes(b"no directory")
    monkeypatch.chdir(tmp_path)


METHODS: dict[str, Callable[[FsbackupFileSystem], Any]] = {
    "exists": lambda fs: fs.exists("set/d"),
    "info": lambda fs: fs.info("set/d"),
    "ls": lambda fs: fs.ls("set/d"),
    "find": lambda fs: fs.find("set/d"),
    "mkdir": lambda fs: fs.mkdir("set/d"),
    "makedirs": lambda fs: fs.makedirs("set/d"),
    "rm": lambda fs: fs.rm("set/d", recursive=True),
    "mv": lambda fs: fs.mv("set/e", "set/d"),
    "cat": lambda fs: fs.cat("set/d"),
}


@pytest.mark.usefixtures("all_away")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_filesystem_is_named(method: str) -> None:
    """The one that was called, whatever it looks at first."""
    with pytest.raises(NoHealthyReplicaError) as caught:
        METHODS[method](FsbackupFileSystem(config="fsbackup.yaml", skip_instance_cache=True))
    assert (caught.value.operation, caught.value.key) == (method, "d")
    assert [str(caught.value).count(f"{name}: ") for name in "abc"] == [1, 1, 1]


def test_a_command_says_one_reason_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the names of all backends that failed for it."""
    (tmp_path / "fsbackup.yaml").write_text(CONFIG)
    for content, code in (("one", 0), ("other", 1)):
        (tmp_path / "file").write_text(content)
        assert main(["-c", str(tmp_path / "fsbackup.yaml"), "put", str(tmp_path / "file"), "k"]) == code
    printed = capsys.readouterr().out
    assert printed.count("\na, b, c: other content is stored under this key - choose another key") == 1
    assert printed.count("other content") == 1


def test_a_job_says_one_reason_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its verdict, whichever backends it holds for."""
    job = "{source: {path: file}, destination: k, replication: set}"
    (tmp_path / "fsbackup.yaml").write_text(f"{CONFIG}jobs: {{j: {job}}}\n")
    for content, code in (("one", 0), ("other", 1)):
        (tmp_path / "file").write_text(content)
        assert main(["-c", str(tmp_path / "fsbackup.yaml"), "run", "j"]) == code
    assert capsys.readouterr().out.splitlines()[-1].count("other content") == 1
