"""What consumers of fsspec ask of a filesystem and do not find in every one: as s3fs does it, or a clear error."""

from __future__ import annotations

import asyncio
import io
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup.errors import NotStoredWarning, TooFewCopiesError
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, ConfiguredSet
from tests.replication.rig import MIB, content


@pytest.fixture
def fs(disks: ConfiguredSet) -> FsbackupFileSystem:
    return disks.fs()


@pytest.fixture
def folder() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}"


def test_names_that_look_like_patterns(fs: FsbackupFileSystem, folder: str, tmp_path: Path) -> None:
    """The name of a file means that file, also where the pattern would match another one."""
    fs.pipe({f"{folder}/y[1].csv": b"[1]", f"{folder}/y1.csv": b"1", f"{folder}/y2.csv": b"2"})
    fs.mkdir(f"{folder}/into")
    fs.cp(f"{folder}/y[1].csv", f"{folder}/copy[x].csv")
    fs.cp(f"{folder}/y[1].csv", f"{folder}/into")
    fs.cp(f"{folder}/y[12].csv", f"{folder}/into")  # a pattern
    assert fs.cat(f"{folder}/copy[x].csv") == fs.cat(f"{folder}/into/y[1].csv") == b"[1]"
    assert fs.find(f"{folder}/into") == [f"{folder}/into/{name}" for name in ("y1.csv", "y2.csv", "y[1].csv")]
    fs.get(f"{folder}/y[1].csv", str(tmp_path / "a[b]"))
    fs.get(f"{folder}/y[1].csv", str(tmp_path))
    assert (tmp_path / "a[b]").read_bytes() == (tmp_path / "y[1].csv").read_bytes() == b"[1]"
    (tmp_path / "ab").write_bytes(b"other")
    fs.put(str(tmp_path / "a[b]"), f"{folder}/put")
    fs.put(str(tmp_path / "a[b]"), f"{folder}/into/")
    assert fs.cat(f"{folder}/put") == fs.cat(f"{folder}/into/a[b]") == b"[1]"
    with pytest.raises(FileNotFoundError):
        fs.cp(f"{folder}/z[1].csv", f"{folder}/z")


def test_the_home_directory(
    fs: FsbackupFileSystem, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` of a local path is it, in every method; no directory of that name is made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fs.pipe_file(f"{folder}/x", b"1")
    for number, get in enumerate((fs.get_file, fs.get, fs.download)):
        get(f"{folder}/x", f"~/{number}")
    for number, put in enumerate((fs.put_file, fs.put, fs.upload)):
        put(f"~/{number}", f"{folder}/back{number}")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0", "1", "2"]
    assert [fs.cat_file(f"{folder}/back{number}") for number in range(3)] == [b"1"] * 3


def test_touch(fs: FsbackupFileSystem, folder: str) -> None:
    """What is there is emptied only where that was asked for."""
    fs.touch(f"{folder}/new", truncate=False)
    assert fs.cat_file(f"{folder}/new") == b""
    fs.pipe_file(f"{folder}/old", b"1")
    with pytest.raises(ValueError, match=f"touch: fsbackup://{folder}/old exists, and the time") as caught:
        fs.touch(f"{folder}/old", truncate=False)
    assert isinstance(caught.value, io.UnsupportedOperation)
    assert fs.cat_file(f"{folder}/old") == b"1"
    fs.touch(f"{folder}/old")
    assert fs.cat_file(f"{folder}/old") == b""


def test_directories_have_no_time(fs: FsbackupFileSystem, folder: str) -> None:
    """`info` of one has no ``mtime``, which a mount would take for a number."""
    fs.pipe_file(f"{folder}/x", b"1")
    assert fs.info(folder) == {"name": folder, "size": 0, "type": "directory"}
    with pytest.raises(IsADirectoryError, match=f"has no time: 'fsbackup://{folder}'"):
        fs.modified(folder)


def test_open_async(fs: FsbackupFileSystem, folder: str) -> None:
    """On any loop: proven bytes of the version that was opened."""
    data = content(3 * MIB)
    fs.pipe_file(f"{folder}/x", data)

    async def read() -> list[bytes]:
        async with await fs.open_async(f"fsbackup://{folder}/x") as file:
            first = [await file.read(10), await file.read(2 * MIB), await file.read()]
            file.seek(-5, 2)
            return [*first, await file.read(50), await file.read(), await file.read(0)]

    pieces = [data[:10], data[10 : 2 * MIB + 10], data[2 * MIB + 10 :], data[-5:], b"", b""]
    assert asyncio.run(read()) == pieces

    async def refused(mode: str) -> None:
        with pytest.raises(NotImplementedError, match=f"not with mode '{mode}'"):
            await fs.open_async(f"{folder}/x", mode)
        with pytest.raises(FileNotFoundError, match=f"open '{folder}/none'"):
            await fs.open_async(f"{folder}/none")

    for mode in ("w", "r"):
        asyncio.run(refused(mode))


def test_open_async_to_write(fs: FsbackupFileSystem, folder: str) -> None:
    """It is stored when it is closed, and not when an exception leaves the block or nobody closes it."""
    data = content(9 * MIB)

    async def write(name: str, mode: str = "wb", error: type[Exception] | None = None) -> None:
        async with await fs.open_async(f"fsbackup://{folder}/{name}", mode) as file:
            for start in range(0, len(data), MIB):
                assert await file.write(data[start : start + MIB]) == MIB
            assert (file.tell(), file.closed) == (len(data), False)
            if error is not None:
                raise error

    asyncio.run(write("x"))
    assert fs.cat_file(f"{folder}/x") == data
    with pytest.raises(FileExistsError):
        asyncio.run(write("x", "xb"))
    with pytest.raises(KeyError):
        asyncio.run(write("discarded", error=KeyError))

    async def dropped() -> None:
        file = await fs.open_async(f"{folder}/dropped", "wb")
        await file.write(b"1")

    with pytest.warns(NotStoredWarning, match="dropped"):
        asyncio.run(dropped())
    assert sorted(fs.ls(folder, detail=False)) == [f"{folder}/x"]


def test_an_open_async_file_says_that_it_cannot_be_stored(
    disks: ConfiguredSet, fs: FsbackupFileSystem, folder: str
) -> None:
    """When it is closed, in the words of any other file."""
    fs.pipe_file(f"{folder}/x", b"1")
    disks.bases["local1"].rename(disks.bases["local1"].with_name("gone"))
    disks.bases["local1"].write_bytes(b"no directory")

    async def write() -> None:
        file = await fs.open_async(f"{folder}/y", "wb")
        await file.write(b"1")
        await file.close()

    disks.min_copies = 2
    fs = disks.fs()
    with pytest.raises(TooFewCopiesError, match=f"^write '{folder}/y': stored nowhere"):
        asyncio.run(write())


def test_errors_name_set_key_and_what_was_asked_for(
    disks: ConfiguredSet, fs: FsbackupFileSystem, folder: str
) -> None:
    """Whatever a method calls underneath; files that are being written included."""
    path = f"{folder}/none"
    fs.pipe_file(f"{folder}/x", b"1")
    asked: dict[str, Callable[[], object]] = {
        "cat": lambda: fs.cat(path),
        "open": lambda: fs.open(path),
        "size": lambda: fs.size(path),
        "modified": lambda: fs.modified(path),
        "checksum": lambda: fs.checksum(path),
        "ls": lambda: fs.ls(path),
    }
    for operation, ask in asked.items():
        with pytest.raises(FileNotFoundError, match=f"^{operation} '{path}': no such (key|object or directory)$"):
            ask()
    disks.bases["local1"].rename(disks.bases["local1"].with_name("gone"))
    disks.bases["local1"].write_bytes(b"no directory")
    asked = {
        "cat": lambda: fs.cat(path),
        "mv": lambda: fs.mv(path, f"{path}2"),
        "rm": lambda: fs.rm(folder, recursive=True),
        "pipe": lambda: fs.pipe({path: b"1"}),
        "write": lambda: fs.open(path, "wb").close(),
    }
    disks.min_copies = 1
    fs = disks.fs()
    for operation, ask in list(asked.items())[:3]:
        with pytest.raises(OSError, match=rf"^{operation} '{folder}.*local1: .* - try again when .* answer$"):
            ask()
    disks.min_copies = 2
    fs = disks.fs()
    for operation, ask in list(asked.items())[3:]:
        with pytest.raises(
            TooFewCopiesError, match=rf"^{operation} '{path}': stored nowhere, 2 of 2 copies are required.*local1"
        ):
            ask()
    with pytest.raises(TooFewCopiesError) as caught:
        fs.pipe_file(path, b"1")
    error = caught.value
    assert (error.set_name, error.key) == tuple(path.split("/", 1))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
