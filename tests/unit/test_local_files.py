"""What a local write does to the disk: modes, times, the order of the flushes, clashes, odd files."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup.backends import LocalStorage
from fsbackup.errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    IntegrityError,
    ObjectNotFoundError,
)
from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.stores.local import atomic_file
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing.driving import list_names, random_bytes, split, write, write_parts
from fsbackup.threads import Workers


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base directory that is there."""
    (tmp_path / "base").mkdir()
    return tmp_path / "base"


@pytest.fixture
def store(base: Path) -> LocalStore:
    """Return a store that gives up on a hanging call soon."""
    return LocalStore(base, timeout=20)


def remains(base: Path) -> list[str]:
    """Return all there is below a base, directories too."""
    return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


@pytest.mark.parametrize(("mode", "kept"), [(None, 0o600), (0o640, 0o640), (0o400, 0o400), (0o106755, 0o755)])
def test_mode(store: LocalStore, base: Path, mode: int | None, kept: int) -> None:
    """The source's permission bits are kept, whatever the umask, and no others; without any, 0600."""
    old = os.umask(0o077)
    try:
        run(write(store, "a", b"x", 1, mode=mode))
    finally:
        os.umask(old)
    assert stat.S_IMODE((base / "a").stat().st_mode) == kept


@pytest.mark.parametrize("mtime", [0, 1_759_320_000_123_456_789, -1_000_000_000])
def test_mtime(store: LocalStore, base: Path, mtime: int) -> None:
    """The source's modification time is kept to the nanosecond."""
    committed = run(write(store, "a", random_bytes(100), 64, mtime_ns=mtime))
    assert (base / "a").stat().st_mtime_ns == mtime
    assert committed.modified == mtime / 1e9


def _recorded(monkeypatch: pytest.MonkeyPatch, base: Path) -> list[str]:
    """Record the calls that order the writes of a crash-safe file, with the base's path left out."""
    seen: list[str] = []

    def record(name: str) -> None:
        original = getattr(os, name)

        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            where = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else ""
            is_temp = ".fsbackup-tmp" in where
            seen.append(f"{name} {'temp' if is_temp else where.removeprefix(str(base.parent))}".strip())
            return original(first, *args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("pwrite", "fdatasync", "fchmod", "utime", "fsync", "replace"):
        record(name)
    return seen


def test_order_of_flushes(store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New directories, then bytes, then mode and time, then fsync, then the name, then fsync of the directory."""
    seen = _recorded(monkeypatch, base)
    run(write(store, "new/dir/a", b"x", 1, mode=0o600, mtime_ns=0))
    assert seen == [
        "fsync /base",
        "fsync /base/new",
        "pwrite temp",
        "fchmod temp",
        "utime temp",
        "fsync temp",
        "replace",
        "fsync /base/new/dir",
    ]


def test_directories_are_made_durable_once(store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that somebody else made may not be durable yet; one that we saw is not flushed again."""
    (base / "old").mkdir()
    seen = _recorded(monkeypatch, base)
    run(store.put("old/a", b"x"))
    assert seen[0] == "fsync /base"
    seen.clear()
    run(store.put("old/b", b"x"))
    assert [call for call in seen if call.startswith("fsync")] == ["fsync temp", "fsync /base/old"]


def test_long_writes_are_flushed_on_the_way(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so many bytes are flushed, so that the last fsync does not have to do it all."""
    monkeypatch.setattr(atomic_file, "_FLUSH", 1000)
    seen = _recorded(monkeypatch, base)
    run(write(store, "a", random_bytes(2500), 500))
    assert seen.count("fdatasync temp") == 2


def _pages_in_memory(path: Path) -> int:
    """Return how many pages of a file the system holds in memory, as `mincore` says."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        there = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
        assert ctypes.CDLL(None).mincore(start, ctypes.c_size_t(len(mapped)), there) == 0
    return sum(page & 1 for page in there)


def test_a_large_copy_pushes_nothing_out_of_memory(tmp_path: Path) -> None:
    """Nobody is about to read it. What is small stays: the next run looks at every manifest."""
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    (tmp_path / "small").write_bytes(bytes(1 << 20))
    disk = LocalStorage(tmp_path / "base")
    for name in ("large", "small"):
        assert disk.upload(tmp_path / name, name)
    assert _pages_in_memory(tmp_path / "large") > 0  # the source is not ours to forget
    assert _pages_in_memory(tmp_path / "base" / "large") * mmap.PAGESIZE < 1 << 20
    assert _pages_in_memory(tmp_path / "base" / "small") > 0


def test_a_hint_that_is_refused_costs_nothing(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, "no such advice here")

    monkeypatch.setattr(atomic_file, "_FLUSH", 1000)
    monkeypatch.setattr(os, "posix_fadvise", refuse)
    run(write(store, "a", data := random_bytes(2500), 500))
    assert (base / "a").read_bytes() == data


def test_a_small_object_is_one_call_into_a_thread(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening, writing, fsync and rename of one part are one hop: small files per second depend on it."""
    calls = []
    submit = Workers.submit

    def counted(self: Workers, call: Callable[[], Any]) -> Any:
        calls.append(call)
        return submit(self, call)

    monkeypatch.setattr(Workers, "submit", counted)
    run(store.put("a/b", b"x"))
    assert len(calls) == 1


@pytest.mark.parametrize("size", [999, 1001, 0, 10_000])
def test_a_size_that_was_not_planned(store: LocalStore, base: Path, size: int) -> None:
    """Bytes that do not add up to the planned size are never committed."""
    with pytest.raises(IntegrityError, match=f"instead of {size}"):
        run(write(store, "a/b", random_bytes(1000), 300, size=size))
    assert remains(base) == []


def test_a_missing_part(store: LocalStore, base: Path) -> None:
    """A hole between parts, and a missing last part, are never committed."""

    async def scenario(parts: list[Part]) -> None:
        writer = store.writer("a/b", WritePlan(None, 300), lambda _: None)
        await write_parts(writer, parts)
        try:
            await writer.commit()
        finally:
            await writer.abort()

    parts = split(random_bytes(1000), 300)
    for some in (parts[:-1], parts[:1] + parts[2:]):
        with pytest.raises(IntegrityError):
            run(scenario(some))
    assert remains(base) == []


def test_a_temp_file_that_was_taken_away(store: LocalStore, base: Path) -> None:
    """A temp file that somebody removes is a failed write, and never "no such key"."""

    async def scenario() -> None:
        writer = store.writer("a/b", WritePlan(1000, 300), lambda _: None)
        await write_parts(writer, split(random_bytes(1000), 300))
        next((base / "a").iterdir()).unlink()
        try:
            await writer.commit()
        finally:
            await writer.abort()

    with pytest.raises(BackendError, match="temp file") as caught:
        run(scenario())
    assert not isinstance(caught.value, ObjectNotFoundError)
    assert remains(base) == []


def test_names_of_temp_files(store: LocalStore, base: Path) -> None:
    """A temp file lies beside its target, is its owner's only, and has a name nobody can guess or confuse."""

    async def scenario() -> list[tuple[str, int]]:
        writers = [store.writer("a/b", WritePlan(None, 10), lambda _: None) for _ in range(2)]
        for writer in writers:
            await writer.write(Part(1, 0, b"x" * 10, last=False))
        found = [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in (base / "a").iterdir()]
        for writer in writers:
            await writer.abort()
        return found

    found = run(scenario())
    assert len({name for name, _ in found}) == 2
    assert all(name.endswith(".fsbackup-tmp") and len(name) > 32 and mode == 0o600 for name, mode in found)


@pytest.mark.parametrize(("there", "new"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a/b", "a/b/c/d")])
@pytest.mark.parametrize("create_only", [False, True])
def test_a_file_and_a_directory_of_one_name(
    store: LocalStore, base: Path, there: str, new: str, create_only: bool
) -> None:
    """A disk cannot keep both: the second is a conflict, the first stays, and the second is absent."""
    run(store.put(there, b"first"))
    before = remains(base)
    with pytest.raises(ConflictError) as caught:
        run(store.put(new, b"second", create_only=create_only))
    assert (caught.value.key, remains(base), run(store.read(there))) == (new, before, b"first")
    assert run(store.stat(new)) is None
    run(store.remove(new))
    assert remains(base) == before


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # a socket's path has to be short
        made.bind(path.name)


@pytest.mark.parametrize("make", [_make_fifo, _make_socket])
def test_special_files_are_no_objects(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """What is no plain file is never opened, listed, replaced or removed."""
    monkeypatch.chdir(base)
    make(base / "special")
    assert run(store.stat("special")) is None
    assert run(list_names(store.list())) == []
    with pytest.raises(ObjectNotFoundError):
        run(store.read("special"))
    with pytest.raises(ConflictError):
        run(store.put("special", b"x"))
    run(store.remove("special"))
    assert remains(base) == ["special"]


def test_empty_directories_go_with_their_last_object(store: LocalStore, base: Path) -> None:
    """A removal takes the directories that it left empty, and no others, and never the base."""
    for name in ("a/b/c/one", "a/b/two"):
        run(store.put(name, b"x"))
    (base / "a" / "theirs").mkdir()
    run(store.remove("a/b/c/one"))
    assert remains(base) == ["a", "a/b", "a/b/two", "a/theirs"]
    run(store.remove("a/b/two"))
    assert remains(base) == ["a", "a/theirs"]
    (base / "a" / "theirs").rmdir()
    run(store.put("a/three", b"x"))
    run(store.remove("a/three"))
    assert (remains(base), base.is_dir()) == ([], True)


def test_an_abort_leaves_directories_of_others(store: LocalStore, base: Path) -> None:
    """An abort removes the directories that it made, not an empty one that was there."""
    (base / "theirs").mkdir()

    async def scenario() -> None:
        writer = store.writer("theirs/new/a", WritePlan(None, 10), lambda _: None)
        await writer.write(Part(1, 0, b"x" * 10, last=False))
        await writer.abort()

    run(scenario())
    assert remains(base) == ["theirs"]


def test_names_that_are_not_utf8(store: LocalStore, base: Path) -> None:
    """Files of others with undecodable names are listed under a name that reads, replaces and removes them."""
    (base / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    name = "caf\udce9"
    assert run(list_names(store.list())) == [name]
    assert run(store.read(name)) == b"latin"
    run(store.remove(name))
    assert remains(base) == []


def _unsupported(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("without", [["_by_rename"], ["_by_rename", "_by_link"], ["renameat2"]])
def test_creating_on_lesser_filesystems(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch, without: list[str], number: int
) -> None:
    """Without an exclusive rename a hard link creates, and without hard links asking first does."""
    for name in without:
        if name == "renameat2":
            monkeypatch.setattr(atomic_file, "_renameat2", lambda: None)
        else:
            monkeypatch.setattr(atomic_file, name, _unsupported(number))
    run(store.put("a", b"first", create_only=True))
    with pytest.raises(ConflictError):
        run(store.put("a", b"second", create_only=True))
    assert (remains(base), (base / "a").read_bytes()) == (["a"], b"first")


@pytest.mark.parametrize("without", [[], ["_by_rename"]])
def test_creating_does_not_rely_on_a_look_before(
    base: Path, monkeypatch: pytest.MonkeyPatch, without: list[str]
) -> None:
    """An object that appears between a look and the rename is not replaced."""
    for name in without:
        monkeypatch.setattr(atomic_file, name, _unsupported(errno.ENOSYS))
    (base / "temp").write_bytes(b"second")
    (base / "a").write_bytes(b"first")
    directory = os.open(base, os.O_RDONLY)
    monkeypatch.setattr(os, "stat", _unsupported(errno.ENOENT))
    try:
        with pytest.raises(FileExistsError):
            atomic_file.rename_new(directory, b"temp", b"a")
    finally:
        os.close(directory)
        monkeypatch.undo()
    assert ((base / "a").read_bytes(), (base / "temp").read_bytes()) == (b"first", b"second")


@pytest.mark.parametrize("is_link", [False, True])
def test_a_temp_name_that_is_taken(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    """Nothing that happens to have a temp file's name, or was put there to catch it, is written to."""
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    victim = base / "victim" if is_link else base / ".guessed.fsbackup-tmp"
    victim.write_bytes(b"kept")
    if is_link:
        (base / ".guessed.fsbackup-tmp").symlink_to("victim")
    with pytest.raises(BackendError):
        run(store.put("a", b"x"))
    assert (victim.read_bytes(), (base / "a").exists()) == (b"kept", False)


@pytest.mark.parametrize(
    ("number", "is_error"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)]
)
def test_directories_that_cannot_be_flushed(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_error: bool
) -> None:
    """A filesystem that has no fsync for directories is taken as it is; one that fails at it is not."""
    fsync = os.fsync

    def failing(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    if is_error:
        with pytest.raises(BackendError):
            run(store.put("a/b", b"x"))
    else:
        run(store.put("a/b", b"x"))
        assert (base / "a" / "b").read_bytes() == b"x"


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync", "fchmod", "utime"])
def test_a_failing_disk_leaves_nothing(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever fails on the way, the old object stays, and neither file, directory nor descriptor is left."""
    run(store.put("kept/a", b"old"))
    descriptors = os.listdir("/proc/self/fd")
    monkeypatch.setattr(atomic_file, "_FLUSH", 100)
    monkeypatch.setattr(os, call, _unsupported(errno.EIO))
    for name in ("kept/a", "new/dir/b"):
        with pytest.raises(BackendError, match="Input/output error"):
            run(write(store, name, random_bytes(1000), 300, mtime_ns=0))
    monkeypatch.undo()
    assert os.listdir("/proc/self/fd") == descriptors
    assert (remains(base), run(store.read("kept/a"))) == (["kept", "kept/a"], b"old")


def test_something_missing_under_a_write_is_no_missing_object(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk says "no such file" to a write, the object is not absent: the write failed."""
    monkeypatch.setattr(os, "fsync", _unsupported(errno.ENOENT))
    with pytest.raises(BackendError) as caught:
        run(store.put("a", b"x"))
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_directory_that_fails_while_it_is_read(
    store: LocalStore, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that cannot be read to its end is an error."""
    run(store.put("a", b"x"))
    monkeypatch.setattr(os, "scandir", _unsupported(errno.EIO))
    with pytest.raises(BackendUnavailableError):
        run(list_names(store.list()))
    assert base.is_dir()


def test_reread_after_commit_and_replacement(store: LocalStore) -> None:
    """A writer that is done gives its bytes again as long as they are there, and nobody else's."""

    async def scenario() -> list[bytes | None]:
        writer = store.writer("a", WritePlan(1000, 300), lambda _: None)
        await write_parts(writer, split(data, 300))
        await writer.commit()
        there = await writer.reread(290, 20)
        await store.put("a", random_bytes(1000, seed=1))
        replaced = await writer.reread(290, 20)
        await store.remove("a")
        return [there, replaced, await writer.reread(290, 20)]

    data = random_bytes(1000)
    assert run(scenario()) == [data[290:310], None, None]


def test_reread_of_a_hole(store: LocalStore) -> None:
    """What lies between parts that came out of order reads as zeros on a disk, and is never given."""

    async def scenario() -> list[bytes | None]:
        writer = store.writer("a", WritePlan(1000, 300), lambda _: None)
        first, second, third, _ = split(data, 300)
        await asyncio.gather(writer.write(third), writer.write(first))
        before = await writer.reread(250, 100)
        await writer.write(second)
        after = await writer.reread(250, 100)
        await writer.abort()
        return [before, after]

    data = random_bytes(1000)
    assert run(scenario()) == [None, data[250:350]]
