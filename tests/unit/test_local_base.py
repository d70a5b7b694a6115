"""The base directory of a local backend: found, made, missing, not mounted."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fsbackup.backends import LocalStorage
from fsbackup.backends.local import DEFAULT_BASE_PATH
from fsbackup.errors import BackendError, BackendUnavailableError, ConfigError, ObjectNotFoundError
from fsbackup.keys import MARKER
from fsbackup.loop import run
from fsbackup.stores.base import NO_PLACE, ObjectStore
from fsbackup.stores.local.store import LocalStore


async def _list(store: ObjectStore) -> list[str]:
    return [item.name async for item in store.list()]


OPERATIONS: dict[str, Callable[[ObjectStore], Awaitable[object]]] = {
    "stat": lambda store: store.stat("a/b"),
    "read": lambda store: store.read("a/b"),
    "list": _list,
    "remove": lambda store: store.remove("a/b"),
    "write": lambda store: store.put("a/b", b"x"),
}


async def _do(operation: str, store: ObjectStore) -> object:
    return await OPERATIONS[operation](store)


def test_default_base_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anything said it is the documented directory."""
    monkeypatch.delenv("BACKUP_LOCAL_PATH", raising=False)
    assert LocalStorage().base_path == DEFAULT_BASE_PATH == "/var/backups/jewelry-shop"


def test_base_path_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable is used, an empty one is not, and an argument goes before it."""
    monkeypatch.setenv("BACKUP_LOCAL_PATH", str(tmp_path))
    assert LocalStorage().base_path == str(tmp_path)
    assert LocalStorage("/elsewhere").base_path == "/elsewhere"
    monkeypatch.setenv("BACKUP_LOCAL_PATH", "")
    assert LocalStorage().base_path == DEFAULT_BASE_PATH


def test_relative_base_path_stays_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path is taken from the current directory of now, and ``~`` is the home directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    relative, home = LocalStore("backups"), LocalStore("~/backups")
    monkeypatch.chdir("/")
    assert relative.location == home.location == str(tmp_path / "backups")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_impossible_base_path(path: str) -> None:
    """A base path that no directory can have is wrong use."""
    with pytest.raises(ConfigError, match="base path"):
        LocalStorage(path)


def test_missing_base_is_an_empty_backend(tmp_path: Path) -> None:
    """Looking into a base that is not there finds nothing and makes nothing; the first write makes it."""
    store = LocalStore(tmp_path / "new" / "base")
    assert run(_do("stat", store)) is None
    assert run(_do("list", store)) == []
    run(_do("remove", store))
    with pytest.raises(ObjectNotFoundError):
        run(_do("read", store))
    assert list(tmp_path.iterdir()) == []
    run(_do("write", store))
    assert (tmp_path / "new" / "base" / "a" / "b").read_bytes() == b"x"


def test_directories_are_private(tmp_path: Path) -> None:
    """What is made for backups is for their owner only."""
    run(LocalStore(tmp_path / "base").put("a/b", b"x"))
    made = [tmp_path / "base", tmp_path / "base" / "a"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700, 0o700]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unmounted_disk_is_not_an_empty_one(tmp_path: Path, operation: str) -> None:
    """With ``create=False`` a missing base is unavailable for every operation, and is not made."""
    store = LocalStore(tmp_path / "mount" / "base", create=False)
    with pytest.raises(BackendUnavailableError, match="mounted") as caught:
        run(_do(operation, store))
    assert (caught.value.backend, caught.value.operation) == ("local", operation)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_base_that_is_a_dangling_link(tmp_path: Path, operation: str) -> None:
    """A base that points to nothing points to a disk that is not there, and is never taken for an empty one."""
    (tmp_path / "base").symlink_to(tmp_path / "unmounted")
    with pytest.raises(BackendUnavailableError, match="mounted"):
        run(_do(operation, LocalStore(tmp_path / "base")))
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize("below", ["", "base"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_base_that_is_a_file(tmp_path: Path, operation: str, below: str) -> None:
    """A file where the base should be, or above it, is an error and stays as it is."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BackendError, match="director") as caught:
        run(_do(operation, LocalStore(tmp_path / "file" / below)))
    assert not isinstance(caught.value, FileNotFoundError)
    assert (tmp_path / "file").read_bytes() == b"x"


def test_base_that_is_a_link_to_a_directory(tmp_path: Path) -> None:
    """The base itself may be a link, or lie below one."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for base in (tmp_path / "link", tmp_path / "link" / "below"):
        store = LocalStore(base, create=True)
        run(store.put("a/b", b"x"))
        assert (run(store.read("a/b")), "a/b" in run(_list(store))) == (b"x", True)


@pytest.fixture
def kept(tmp_path: Path) -> LocalStore:
    """Return a store that keeps to its directory, which is elsewhere now."""
    store = LocalStore(tmp_path / "base")
    run(store.put("a/b", b"x"))
    store.keep_place(store.place_id())
    (tmp_path / "base").rename(tmp_path / "away")
    return store


@pytest.mark.parametrize("is_replaced", [False, True])
def test_kept_base_is_not_made_anew(tmp_path: Path, kept: LocalStore, is_replaced: bool) -> None:
    """Nor is another directory written to, also when the disk is taken away while something is being written."""
    if is_replaced:
        (tmp_path / "base").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackendUnavailableError, match="unmounted"):
        run(kept.put("a/c", b"x"))
    assert sorted(tmp_path.rglob("*")) == before
    assert (kept.place_id() == NO_PLACE) is not is_replaced
    kept.keep_place(kept.place_id())
    run(kept.put("a/c", b"x"))


def test_kept_base_that_its_filesystem_numbers_anew(tmp_path: Path, kept: LocalStore) -> None:
    """A directory with a marker is the one that is meant, whatever its inode."""
    shutil.copytree(tmp_path / "away", tmp_path / "base")
    (tmp_path / "base" / ".fsbackup").mkdir()
    (tmp_path / "base" / MARKER).write_bytes(b"{}")
    run(kept.put("a/c", b"x"))


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\0b"])
@pytest.mark.parametrize("operation", ["stat", "read", "remove", "write"])
def test_names_that_leave_the_base(tmp_path: Path, name: str, operation: str) -> None:
    """A name that would lead out of the base never gets to the disk, whoever passed it."""
    calls: dict[str, Callable[[ObjectStore], Awaitable[object]]] = {
        "stat": lambda store: store.stat(name),
        "read": lambda store: store.read(name),
        "remove": lambda store: store.remove(name),
        "write": lambda store: store.put(name, b"x"),
    }

    async def scenario() -> None:
        await calls[operation](LocalStore(tmp_path / "base"))

    (tmp_path / "a").write_bytes(b"outside")
    with pytest.raises(ValueError, match="not the name of an object"):
        run(scenario())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../", "./"])
def test_prefixes_that_leave_the_base(tmp_path: Path, prefix: str) -> None:
    """No object has a name with such a beginning, so there is nothing to list."""

    async def scenario() -> list[str]:
        return [item.name async for item in LocalStore(tmp_path / "base").list(prefix)]

    (tmp_path / "base" / "a").mkdir(parents=True)
    (tmp_path / "outside").write_bytes(b"x")
    assert run(scenario()) == []


def test_filesystem() -> None:
    """The fsspec filesystem that it wraps is the local one."""
    filesystem = LocalStorage("/somewhere").fs
    assert "file" in filesystem.protocol
    assert filesystem.exists(os.path.abspath(__file__))
