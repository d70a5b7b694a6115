"""Filesystems that lie: nothing that they did not really do is reported as done."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
    OutOfSpaceError,
    TransientError,
)
from fsbackup.loop import run
from fsbackup.stores.base import WritePlan
from fsbackup.stores.generic.store import GenericStore
from fsbackup.testing.driving import list_names, random_bytes, split, write, write_parts
from tests.contract.raw_access import memory_access


class LyingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory with one fault, given by `faults`."""

    protocol = "liar"
    cachable = False
    faults: dict[str, Callable[..., Any]]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("liar://", "memory://")))


@pytest.fixture
def root() -> str:
    """Return a directory that nobody else uses."""
    return secrets.token_hex(8)


@pytest.fixture
def liar(root: str) -> Callable[..., GenericStore]:
    """Return a function that makes a store over a filesystem with some methods replaced."""

    def make(confirm: str = "checksum", **methods: Callable[..., Any]) -> GenericStore:
        kind = type("Liar", (LyingFileSystem,), dict(methods))
        fsspec.register_implementation("liar", kind, clobber=True)
        return GenericStore(f"liar://{root}", confirm=confirm)  # type: ignore[arg-type]

    return make


def _open_changed(change: Callable[[bytes], bytes]) -> Callable[..., Any]:
    def opened(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = MemoryFileSystem._open(self, path, mode=mode, **kwargs)
        if mode == "wb":
            original = file.write
            file.write = lambda data: original(change(bytes(data)))
        return file

    return opened


@pytest.mark.parametrize("parts", [1, 3])
def test_changed_bytes_are_found(liar: Callable[..., GenericStore], root: str, parts: int) -> None:
    """A bit that turned on its way is an `IntegrityError`; the old object stays, and nothing beside it."""
    memory_access(root).put("a", b"old")
    store = liar(_open=_open_changed(lambda data: bytes([data[0] ^ 1]) + data[1:]))
    with pytest.raises(IntegrityError, match="differ from the bytes sent"):
        run(write(store, "a", random_bytes(parts * 1000), 1000))
    assert (memory_access(root).names(), memory_access(root).get("a")) == ({"a"}, b"old")


@pytest.mark.parametrize("confirm", ["checksum", "size"])
def test_missing_bytes_are_found(liar: Callable[..., GenericStore], root: str, confirm: str) -> None:
    """Bytes that were swallowed are found by the size alone."""
    store = liar(confirm, _open=_open_changed(lambda data: data[:-1]))
    with pytest.raises(IntegrityError, match="999 bytes were stored instead of 1000"):
        run(write(store, "a", random_bytes(1000), 1000))
    assert memory_access(root).names() == set()


def test_confirming_by_size_reads_nothing_back(liar: Callable[..., GenericStore], root: str) -> None:
    """With ``confirm="size"`` the content is the filesystem's to keep."""

    read_back = _raising(AssertionError("it was read back"))
    run(write(liar("size", cat_file=read_back), "a", random_bytes(1000), 1000))
    assert memory_access(root).get("a") == random_bytes(1000)


def test_a_planned_size_is_kept(liar: Callable[..., GenericStore], root: str) -> None:
    """An object of another size than was planned is never published."""
    with pytest.raises(IntegrityError, match="instead of 999"):
        run(write(liar(), "a", random_bytes(1000), 1000, size=999))
    assert memory_access(root).names() == set()


def _nothing(*_: Any, **__: Any) -> None:
    return None


def test_a_move_that_does_nothing_is_found(liar: Callable[..., GenericStore], root: str) -> None:
    """Some servers do not rename over a file and say nothing of it: the old object stays and the write fails."""
    memory_access(root).put("a", b"old")
    with pytest.raises(BackendError, match="did not rename"):
        run(write(liar(mv=_nothing), "a", b"new", 1000))
    assert (memory_access(root).names(), memory_access(root).get("a")) == ({"a"}, b"old")


def _raising(error: BaseException) -> Callable[..., Any]:
    def method(*_: Any, **__: Any) -> Any:
        raise error

    return method


@pytest.mark.parametrize(("method", "untouched"), [("cat_file", True), ("mv", False)])
def test_a_failed_write_tells_whether_it_may_have_replaced(
    liar: Callable[..., GenericStore], method: str, untouched: bool
) -> None:
    """Before the rename has begun the old object is known to stay, so nothing need prove the new one."""
    store = liar(**{method: _raising(OSError(28, "full"))})

    async def fail() -> bool:
        writer = store.writer("a", WritePlan(size=10, part_size=1000), lambda _: None)
        await write_parts(writer, split(bytes(10), 1000))
        with pytest.raises(OutOfSpaceError):
            await writer.commit()
        revoked = writer.revoke()
        await writer.abort()
        return revoked

    assert run(fail()) is untouched


_UNCLEAR = [
    (PermissionError(13, "no"), AccessDeniedError),
    (TimeoutError("slow"), BackendUnavailableError),
    (ConnectionResetError("gone"), BackendUnavailableError),
    (EOFError(), BackendUnavailableError),
    (OSError(28, "full"), OutOfSpaceError),
    (OSError("Failure"), TransientError),
    (RuntimeError("what?"), BackendError),
    (NotImplementedError(), BackendError),
]


@pytest.mark.parametrize(("error", "kind"), _UNCLEAR, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_only_a_clear_answer_is_absent(
    liar: Callable[..., GenericStore], error: BaseException, kind: type[FsbackupError]
) -> None:
    """Whatever else goes wrong when asking for an object, it is an error and not "no such key"."""
    store = liar(info=_raising(error))
    for ask in (store.stat("a"), store.remove("a")):
        with pytest.raises(kind) as caught:
            run(ask)
        assert not isinstance(caught.value, FileNotFoundError)
    listed = liar(ls=_raising(error))
    with pytest.raises(kind):
        run(list_names(listed.list()))


@pytest.mark.parametrize("method", ["open", "info", "ls", "cat_file"])
def test_file_not_found_is_absent(liar: Callable[..., GenericStore], method: str) -> None:
    """The filesystem's own "no such file" is."""
    store = liar(**{method: _raising(FileNotFoundError("a"))})
    assert run(store.stat("a")) is None
    assert run(list_names(store.list())) == []
    with pytest.raises(ObjectNotFoundError):
        run(store.read("a"))


def test_something_missing_under_a_write_is_no_missing_object(liar: Callable[..., GenericStore]) -> None:
    """When a write is told "no such file", the object is not absent: the write failed."""
    with pytest.raises(BackendError) as caught:
        run(liar(open=_raising(FileNotFoundError("a"))).put("a", b"x"))
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("data", [b"", b"0123456", b"01234567890"])
def test_ranges_of_another_length(liar: Callable[..., GenericStore], root: str, data: bytes) -> None:
    """A filesystem that returns more or less than the range is not believed."""
    memory_access(root).put("a", b"0123456789abcdef")
    store = liar(cat_file=lambda *_, **__: data)
    with pytest.raises(TransientError, match=f"{len(data)} bytes arrived instead of 10"):
        run(store.read("a", 0, 10))


def test_listings_are_not_remembered(liar: Callable[..., GenericStore], root: str) -> None:
    """A filesystem that keeps listings is asked anew every time."""
    ls = MemoryFileSystem.ls

    def remembering(self: Any, path: str, **kwargs: Any) -> Any:
        if path not in self.dircache:
            listed = ls(self, path, **kwargs)
            self.dircache[path] = listed
            return listed
        return self.dircache[path]

    store = liar(ls=remembering)
    for name in ("a", "b"):
        memory_access(root).put(name, b"x")
        assert name in run(list_names(store.list()))


def test_own_memories_are_cleared(liar: Callable[..., GenericStore], root: str) -> None:
    """A filesystem that remembers in its own way is told to forget before it is asked."""
    memory: dict[str, Any] = {}
    info = MemoryFileSystem.info

    def remembering(self: Any, path: str, **_: Any) -> Any:
        if path not in memory:
            memory[path] = info(self, path)
        return memory[path]

    store = liar(info=remembering, invalidate_cache=lambda *_: memory.clear())
    for data in (b"1", b"22"):
        memory_access(root).put("a", data)
        found = run(store.stat("a"))
        assert found is not None
        assert found.size == len(data)


@pytest.mark.parametrize("create_only", [False, True])
def test_a_directory_of_the_name(liar: Callable[..., GenericStore], root: str, create_only: bool) -> None:
    """An object cannot replace a directory, and a filesystem that would let it is not asked to."""
    memory_access(root).put("a/b", b"kept")
    with pytest.raises(ConflictError):
        run(liar().put("a", b"x", create_only=create_only))
    assert memory_access(root).names() == {"a/b"}


def test_a_file_that_lists_itself(liar: Callable[..., GenericStore], root: str) -> None:
    """A prefix that is a file with a slash behind it holds nothing."""
    memory_access(root).put("a/b", b"x")
    assert run(list_names(liar().list("a/b/"))) == []


@pytest.mark.parametrize("kind", ["link", "other"])
def test_links_and_others_in_listings(liar: Callable[..., GenericStore], root: str, kind: str) -> None:
    """What is listed as a link is the file that it shows, or nothing; a link to a directory is an error."""
    ls = MemoryFileSystem.ls

    def listed(self: Any, path: str, **kwargs: Any) -> Any:
        return [{**entry, "type": kind} for entry in ls(self, path, **kwargs)]

    memory_access(root).put("file", b"four")
    store = liar(ls=listed)
    assert run(list_names(store.list())) == ["file"]
    memory_access(root).put("dir/x", b"x")
    with pytest.raises(AccessDeniedError, match="link to a directory"):
        run(list_names(store.list()))
