"""A closed file is stored; a file that is never closed is not, with a warning."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import pickle
import secrets
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fsbackup
from fsbackup import GenericStorage, LocalStorage, ReplicatedStorage
from fsbackup.engine.replicas import Spool
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, ConfiguredSet
from tests.integration.cli_helpers import wait_until
from tests.replication.rig import MIB, content
from tests.servers.bucket import list_keys, list_uploads


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def left_behind(configured: ConfiguredSet) -> list[str]:
    """Return all files, objects and unfinished uploads, those of fsbackup included."""
    found = [str(each) for base in configured.bases.values() for each in base.rglob("*") if each.is_file()]
    for proxy in configured.proxies.values():
        found += list_keys(proxy.endpoint, configured.prefix)
        found += [upload.key for upload in list_uploads(proxy.endpoint, configured.prefix)]
    return found


def test_close_in_an_except_block_stores(disks: ConfiguredSet, path: str) -> None:
    """An explicit `close` stores the file, also while an exception is being handled."""
    fs = disks.fs()
    file = fs.open(path, "wb")
    rows = iter([b"1", b"2"])
    try:
        while True:
            file.write(next(rows))
    except StopIteration:
        file.close()
    assert fs.cat_file(path) == b"12"


def test_close_in_a_finally_block_stores(disks: ConfiguredSet, path: str) -> None:
    fs = disks.fs()
    file = fs.open(path, "wb")
    with suppress(KeyError):
        try:
            file.write(b"1")
            raise KeyError
        finally:
            file.close()
    assert fs.cat_file(path) == b"1"


class Report:
    """Writes the exception that is leaving its block."""

    def __init__(self, fs: FsbackupFileSystem, path: str) -> None:
        self._fs, self._path = fs, path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        file = self._fs.open(self._path, "wb")
        file.write(repr(error).encode())
        file.close()
        return True


def test_a_file_opened_and_closed_while_a_block_is_left(disks: ConfiguredSet, path: str) -> None:
    """The exception is older than the file."""
    fs = disks.fs()
    with Report(fs, path):
        raise KeyError("rent")
    assert fs.cat_file(path) == b"KeyError('rent')"


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zip"])
def test_compressed_files_are_stored(disks: ConfiguredSet, path: str, compression: str) -> None:
    """Compressors leave their file open; the end of the block closes both."""
    fs = disks.fs()
    with fs.open(path, "wb", compression=compression) as file:
        file.write(b"hello")
    with fs.open(path, "rb", compression=compression) as file:
        assert file.read() == b"hello"
    with fs.open(path, "wt", compression=compression) as text:
        text.write("world")
    with fs.open(path, "rt", compression=compression) as text:
        assert text.read() == "world"


def test_closing_what_was_discarded_is_an_error(disks: ConfiguredSet, path: str) -> None:
    """Otherwise its owner would take it for stored."""
    fs = disks.fs()
    file = fs.open(path, "wb")
    with suppress(KeyError), file:
        file.write(b"half")
        raise KeyError
    with pytest.raises(fsbackup.DiscardedError, match=path):
        file.close()
    assert not fs.exists(path)


def test_a_discarded_wrapper_fails_the_outer_block(disks: ConfiguredSet, path: str) -> None:
    """The outer block ends without an exception, and the file is discarded all the same."""
    fs = disks.fs()
    with pytest.raises(fsbackup.DiscardedError, match="write it again"):
        _write_half_a_text(fs, path)
    assert not fs.exists(path)


def _write_half_a_text(fs: FsbackupFileSystem, path: str) -> None:
    with fs.open(path, "wb") as file, suppress(KeyError), io.TextIOWrapper(file) as text:
        text.write("half")
        raise KeyError


def test_closing_twice_is_nothing(disks: ConfiguredSet, path: str) -> None:
    fs = disks.fs()
    with fs.open(path, "wb") as file:
        file.write(b"1")
        file.close()
    file.close()
    assert fs.cat_file(path) == b"1"


def _pickled(fs: FsbackupFileSystem, path: str, size: int) -> None:
    pickle.dump(content(size), fs.open(path, "wb"))


def _created(fs: FsbackupFileSystem, path: str, size: int) -> None:
    fs.open(path, "xb").write(content(size))


def _in_text(fs: FsbackupFileSystem, path: str, size: int) -> None:
    json.dump(content(size).hex(), fs.open(path, "w"))


def _compressed(fs: FsbackupFileSystem, path: str, size: int) -> None:
    fs.open(path, "wb", compression="gzip").write(content(size))


def _compressed_text(fs: FsbackupFileSystem, path: str, size: int) -> None:
    fs.open(path, "wt", compression="gzip").write(content(size).hex())


def _in_gzip(fs: FsbackupFileSystem, path: str, size: int) -> None:
    with gzip.open(fs.open(path, "wb"), "wb") as file:
        file.write(content(size))


def _in_a_cycle(fs: FsbackupFileSystem, path: str, size: int) -> None:
    file: Any = fs.open(path, "wb")
    file.write(content(size))
    file.itself = file
    del file
    gc.collect()


def _in_an_open_transaction(fs: FsbackupFileSystem, path: str, size: int) -> None:
    fs.start_transaction()
    with fs.open(path, "wb") as file:
        file.write(content(size))
    fs.transaction.files.clear()
    fs._intrans = False


DROPS = [
    _pickled,
    _created,
    _in_text,
    _compressed,
    _compressed_text,
    _in_gzip,
    _in_a_cycle,
    _in_an_open_transaction,
]


@pytest.mark.each_choice
@pytest.mark.parametrize("size", [10, 9 * MIB])
@pytest.mark.parametrize("drop", DROPS)
def test_a_dropped_file_is_not_stored_and_warned_of(
    disks: ConfiguredSet, path: str, drop: Callable[[FsbackupFileSystem, str, int], None], size: int
) -> None:
    """Also when it is larger than a block, so that its upload has started; nothing of it is left behind."""
    fs = disks.fs()
    with pytest.warns(fsbackup.NotStoredWarning, match=f"fsbackup://{path} is not stored.*with fs.open"):
        drop(fs, path, size)
    wait_until(lambda: not left_behind(disks))


@pytest.mark.parametrize("size", [10, 9 * MIB])
@pytest.mark.parametrize(
    ("drop", "read"),
    [
        (_pickled, pickle.loads),
        (_created, bytes),
        (_in_text, lambda stored: bytes.fromhex(json.loads(stored))),
        (_in_gzip, gzip.decompress),
    ],
)
def test_a_dropped_file_is_stored_by_choice(
    disks: ConfiguredSet,
    path: str,
    drop: Callable[[FsbackupFileSystem, str, int], None],
    read: Callable[[bytes], bytes],
    size: int,
) -> None:
    """As `close` would have stored it, with all that a wrapper had not written yet."""
    fs = disks.fs(store_dropped=True)
    drop(fs, path, size)
    assert read(fs.cat_file(path)) == content(size)


@pytest.mark.parametrize("drop", [_compressed, _in_an_open_transaction])
def test_half_a_file_is_not_stored_by_choice_either(
    disks: ConfiguredSet, path: str, drop: Callable[[FsbackupFileSystem, str, int], None]
) -> None:
    """As one whose compressor has not written its end."""
    fs = disks.fs(store_dropped=True)
    with pytest.warns(fsbackup.NotStoredWarning, match=f"fsbackup://{path} is not stored"):
        drop(fs, path, 10)
    wait_until(lambda: not left_behind(disks))


def test_a_file_dropped_in_an_except_block_is_not_stored(disks: ConfiguredSet, path: str) -> None:
    fs = disks.fs(store_dropped=True)
    file: Any = fs.open(path, "wb")
    try:
        file.write(b"half")
        raise KeyError
    except KeyError:
        with pytest.warns(fsbackup.NotStoredWarning, match=f"fsbackup://{path} is not stored"):
            del file
    wait_until(lambda: not left_behind(disks))


def test_a_dropped_file_that_too_few_replicas_take_is_warned_of(disks: ConfiguredSet, path: str) -> None:
    fs = disks.fs(store_dropped=True)
    disks.bases["local1"].write_bytes(b"no directory")
    with pytest.warns(fsbackup.NotStoredWarning, match="local1"):
        _pickled(fs, path, 10)


def test_a_dropped_file_leaves_no_upload(buckets: ConfiguredSet, path: str) -> None:
    """A multipart upload that had started is aborted."""
    fs = buckets.fs()
    file: Any = fs.open(path, "wb")
    file.write(content(40 * MIB))
    wait_until(lambda: all(proxy.count("upload_part") for proxy in buckets.proxies.values()))
    with pytest.warns(fsbackup.NotStoredWarning):
        del file
    wait_until(lambda: not left_behind(buckets))


_NEVER_CLOSED = """
import sys, fsspec
fs = fsspec.filesystem("fsbackup", config=sys.argv[1])
for name in ("1", "2"):
    file = fs.open(sys.argv[2] + name, "wb")
    file.write(bytes(9 << 20))
    globals()["file" + name] = file
"""


@pytest.mark.parametrize("kind", ["disks", "buckets"])
def test_a_file_open_at_the_end_of_the_process(kind: str, path: str, request: pytest.FixtureRequest) -> None:
    """A warning on the terminal names it, and nothing of it is left behind."""
    configured: ConfiguredSet = request.getfixturevalue(kind)
    command = [sys.executable, "-c", _NEVER_CLOSED, str(configured.config), path]
    stderr = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    for name in ("1", "2"):
        assert f"NotStoredWarning: fsbackup://{path}{name} is not stored" in stderr
    assert not left_behind(configured)


def test_an_open_file_and_a_large_one_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """What is put while a file is open may want all the memory there is, and others are opened meanwhile."""
    places = [LocalStorage(base_path=tmp_path / each, name=each) for each in ("one", "two")]
    fs = ReplicatedStorage(places, name="places", memory=8 * MIB).fs
    source = tmp_path / "large"
    source.write_bytes(content(20 * MIB))

    def write() -> None:
        with fs.open("places/index", "wb") as index:
            index.write(content(10 * MIB))
            fs.put_file(str(source), "places/large")
            index.write(b"places/large")

    with ThreadPoolExecutor(1) as caller:
        caller.submit(write).result(60)
    assert fs.size("places/index") == 10 * MIB + len(b"places/large")
    assert fs.size("places/large") == 20 * MIB


def deleted_files() -> list[str]:
    """Return the files without a name that this process has open, where a spool keeps them."""
    links = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    return [each for each in links if each.endswith("(deleted)")]


@pytest.mark.parametrize("how", ["write", "append", "copy"])
def test_what_a_spool_has_kept_is_freed_with_the_file(tmp_path: Path, how: str) -> None:
    """Not when the garbage collector finds it: until then it takes room on the disk."""
    top, key = secrets.token_hex(4), "db/data.bin"
    places = [GenericStorage(url=f"memory://{top}/{each}", name=each) for each in ("one", "two")]
    if how == "copy":  # of what has no record
        for each in places:
            each.fs.pipe_file(f"{each.location}/{key}", b"old")
    storage = ReplicatedStorage(places, name="places", spool=Spool(tmp_path, 64 * MIB), append=True)
    gc.collect()
    gc.disable()
    try:
        before = deleted_files()
        if how == "copy":
            storage.fs.cp_file(f"places/{key}", "places/copy")
        else:
            with storage.fs.open(f"places/{key}", "ab" if how == "append" else "wb") as file:
                file.write(content(MIB))
        assert deleted_files() == before
    finally:
        gc.enable()
