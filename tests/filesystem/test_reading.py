"""Reads: proven bytes of one version, from any replica that answers; "not found" only when that is proven."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import random
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import pytest

from fsbackup.errors import ConfigError, IntegrityError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.keys import manifest_name
from fsbackup.record import Manifest, dump, load
from tests.filesystem.configured_set import ROOT, SET, TOP, ConfiguredSet, overwrite
from tests.matrix import sparing
from tests.replication.rig import MIB, content
from tests.servers.faults import Corrupt, Drop, Hold, Refuse, Status

SIZE = 6 * MIB + 12_345


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def key_of(path: str) -> str:
    return path.removeprefix(f"{SET}/")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (0, 10),
        (MIB - 1, MIB + 1),
        (-5, None),
        (None, -5),
        (-10, -3),
        (5, 5),
        (9, 3),
        (SIZE - 2, SIZE + 9),
        (SIZE + 5, SIZE + 9),
        (None, 0),
        (3 * MIB, None),
    ],
)
def test_ranges_are_slices(disks: ConfiguredSet, path: str, start: int | None, end: int | None) -> None:
    """For any bounds the bytes are those of the slice."""
    data = content(SIZE)
    fs = disks.fs()
    fs.pipe_file(path, data)
    assert fs.cat_file(path, start, end) == data[slice(start, end)]


def test_many_ranges_come_together(buckets: ConfiguredSet, path: str) -> None:
    """2,000 ranges of a file cost one look-up and at most one request per run of blocks.

    The look-up is a HEAD, which has the manifest, or a GET of the first bytes, which has it too; and once in a
    process a listing of all tombstones.
    """
    data = content(SIZE)
    buckets.fs().pipe_file(path, data)
    for proxy in buckets.proxies.values():
        proxy.forget()
    starts = [random.Random(each).randrange(SIZE) for each in range(2000)]
    ends = [start + 5000 for start in starts]
    found = buckets.fs().cat_ranges([path] * 2000, starts, ends)
    assert found == [data[start:end] for start, end in zip(starts, ends, strict=True)]
    reads = {name: proxy.count("get", buckets.data(name, key_of(path))) for name, proxy in buckets.proxies.items()}
    assert sum(reads.values()) <= 8
    assert sum(proxy.count("head") for proxy in buckets.proxies.values()) == 1
    for name, proxy in buckets.proxies.items():
        assert proxy.count("list") == 1, name
        assert proxy.count("get") == reads[name], "nothing but data"


def test_what_is_read_unseen_may_have_gone(disks: ConfiguredSet, path: str) -> None:
    """A manifest without data neither hides the other replica's data nor counts as a file."""
    disks.fs().pipe_file(path, b"data")
    one, other = (base / key_of(path) for base in disks.bases.values())
    one.unlink()
    fs = disks.fs()
    assert fs.cat_file(path) == b"data"
    assert fs.info(path)["replicas"] == ["local1"], "only replicas whose data was seen"
    other.unlink()
    with pytest.raises(FileNotFoundError, match="data is gone"):
        disks.fs().cat_file(path)


def test_looks_just_taken_are_not_taken_again(buckets: ConfiguredSet, path: str) -> None:
    """One look-up asks both replicas; who is told a size or a checksum after it asks a quorum, one of them.

    What it is, is not asked for again; and the answer to who opens a small file has its bytes.
    """
    buckets.fs().pipe_file(path, b"day" * 1000)
    fs = buckets.fs()
    for proxy in buckets.proxies.values():
        proxy.forget()
    assert (fs.size(path), len(fs.ukey(path)), fs.isfile(path), fs.exists(path)) == (3000, 64, True, True)
    assert sum(proxy.count("head") for proxy in buckets.proxies.values()) == 2 + 1
    with fs.open(path) as file:
        assert file.read() == b"day" * 1000
    assert sum(proxy.count("head") for proxy in buckets.proxies.values()) == 2 + 1
    assert sum(proxy.count("get") for proxy in buckets.proxies.values()) == 1


def test_blocks_are_remembered(buckets: ConfiguredSet, path: str) -> None:
    """The footer of a file is fetched once."""
    buckets.fs().pipe_file(path, content(SIZE))
    fs = buckets.fs()
    first = fs.cat_file(path, -100)
    for proxy in buckets.proxies.values():
        proxy.forget()
    assert fs.cat_file(path, -100) == first
    data = [proxy.count("get", buckets.data(name, key_of(path))) for name, proxy in buckets.proxies.items()]
    assert data == [0, 0]


@pytest.mark.parametrize("fault", [Drop(answer_bytes=1000), Corrupt(at=77), Status(403, "AccessDenied"), Refuse()])
def test_a_replica_that_fails_in_the_middle(
    buckets: ConfiguredSet, path: str, fault: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    """It fails from the second answer on: the reader gets the same bytes, and the log has one line."""
    data = content(SIZE)
    fs = buckets.fs()
    fs.pipe_file(path, data)
    buckets.proxies["moto0"].add(fault, on="get", key=buckets.data("moto0", key_of(path)), first=2)
    with fs.open(path, block_size=MIB) as file, caplog.at_level(logging.WARNING, "fsbackup"):
        assert b"".join(iter(lambda: file.read(300_000), b"")) == data
    assert [record.getMessage().count("moto0") > 0 for record in caplog.records] == [True]


def test_no_replica_has_the_block(disks: ConfiguredSet, path: str) -> None:
    """Wrong bytes are never returned: the read fails, and intact blocks can still be read."""
    data = content(SIZE)
    fs = disks.fs()
    fs.pipe_file(path, data)
    for base in disks.bases.values():
        file = base / key_of(path)
        rotten = bytearray(file.read_bytes())
        rotten[2 * MIB + 5] ^= 1
        file.write_bytes(rotten)
    with pytest.raises(IntegrityError, match="do not match the manifest") as caught:
        disks.fs().cat_file(path)
    assert "local0" in str(caught.value)
    assert "local1" in str(caught.value)
    assert disks.fs().cat_file(path, 3 * MIB) == data[3 * MIB :]


def test_an_open_file_stays_at_its_version(disks: ConfiguredSet, path: str) -> None:
    """A file that is replaced while it is open gives old bytes or an error, never new ones."""
    old, new = content(SIZE, 1), content(SIZE, 2)
    fs = disks.fs()
    fs.pipe_file(path, old)
    with fs.open(path, block_size=MIB) as file:
        assert file.read(1000) == old[:1000]
        disks.fs().pipe_file(path, new)
        file.seek(5 * MIB)
        with pytest.raises(IntegrityError, match="replaced while it was open"):
            file.read(1000)
    assert disks.fs().cat_file(path) == new
    # Also for a filesystem that has just cached the old version.
    assert fs.cat_file(path) == new


def read_in_pieces(fs: FsbackupFileSystem, path: str, **options: Any) -> bytes:
    with fs.open(path, **options) as file:
        data = b"".join(iter(lambda: file.read(300_000), b""))
        assert (file.size, file.details["size"], file.seek(0, 2)) == (len(data),) * 3
        return data


def read_from_the_end(fs: FsbackupFileSystem, path: str, **options: Any) -> bytes:
    """As a reader of Parquet or ZIP."""
    with fs.open(path, **options) as file:
        size, sha256 = file.seek(0, 2), file.details["sha256"]
        file.seek(size - 1000)
        end = file.read()
        file.seek(0)
        data: bytes = file.read(size - 1000) + end
        assert hashlib.sha256(data).hexdigest() == sha256
        return data


def read_async(fs: FsbackupFileSystem, path: str) -> bytes:
    async def read() -> bytes:
        async with await fs.open_async(path) as file:
            data: bytes = await file.read()
            assert file.size == file.details["size"] == len(data)
            return data

    return asyncio.run(read())


#: How a file may be opened and read.
READS: dict[str, Callable[[FsbackupFileSystem, str], bytes]] = {
    "pieces": read_in_pieces,
    "end": read_from_the_end,
    "async": read_async,
    "small blocks": partial(read_in_pieces, block_size=100_000),
    **{
        cache: partial(read_from_the_end, cache_type=cache)
        for cache in ("none", "readahead", "bytes", "blockcache", "background", "all", "first")
    },
}


@pytest.mark.parametrize("is_cached", [False, True], ids=["", "blocks cached"])
@pytest.mark.parametrize("read", sparing(READS, {"pieces", "end", "async", "readahead", "background"}))
def test_a_file_opened_after_an_overwrite_is_the_new_one(
    disks: ConfiguredSet, path: str, elsewhere: Pool, read: str, is_cached: bool
) -> None:
    """Another process' overwrite, a moment after a look. Rows were appended: the first blocks are as before."""
    old = content(2 * MIB + 5)
    new = old + content(MIB, 1)
    fs = disks.fs()
    fs.pipe_file(path, old)
    assert fs.size(path) == len(old)
    assert not is_cached or READS[read](fs, path) == old
    elsewhere.apply(overwrite, (disks.config, path, new))
    assert READS[read](fs, path) == new
    assert fs.size(path) == len(new)


def test_the_set_opens_and_copies_what_is_new(disks: ConfiguredSet, path: str, elsewhere: Pool) -> None:
    storage = disks.storage()
    storage.fs.pipe_file(path, b"old")
    assert storage.fs.size(path) == 3
    elsewhere.apply(overwrite, (disks.config, path, b"newer"))
    storage.fs.cp_file(path, f"{path}.copy")
    with storage.open(key_of(path)) as file, storage.open(f"{key_of(path)}.copy") as copy:
        assert (file.size, file.read()) == (copy.size, copy.read()) == (5, b"newer")


def test_one_replica_that_missed_an_overwrite_is_not_believed(
    buckets: ConfiguredSet, path: str, elsewhere: Pool
) -> None:
    """Where one copy is enough, both are asked before a file is opened as the one that it was."""
    buckets.min_copies = 1
    fs = buckets.fs()
    for number, proxy in enumerate(buckets.proxies.values()):
        fs.pipe_file(path, b"old")
        assert fs.size(path) == 3
        refusal = Status(403, "AccessDenied")
        proxy.add(refusal, on="put_object", key=buckets.data("", "")[:-2])
        new = b"new %d" % number
        elsewhere.apply(overwrite, (buckets.config, path, new))
        assert refusal.hits
        with fs.open(path) as file:
            assert (file.size, file.read()) == (5, new)
        proxy.clear()


def test_opening_waits_for_no_earlier_look(buckets: ConfiguredSet, path: str, elsewhere: Pool) -> None:
    """One that is under way has had its answer, before the overwrite."""
    elsewhere.apply(overwrite, (buckets.config, path, b"old"))
    fs = buckets.fs()
    hold = buckets.proxies["moto0"].add(Hold("after"), on="head", key=buckets.data("moto0", key_of(path)), times=1)
    with ThreadPoolExecutor(1) as pool:
        size = pool.submit(fs.size, path)
        try:
            hold.wait_reached()
            elsewhere.apply(overwrite, (buckets.config, path, b"newer"))
            with fs.open(path) as file:
                assert (file.size, file.read()) == (5, b"newer")
        finally:
            hold.release()
        assert size.result() in (3, 5)


@pytest.mark.parametrize(
    ("size", "is_cached", "asked"),
    [
        (3000, False, ["get"]),
        (3000, True, ["head"]),
        (SIZE, False, ["get", "get", "head"]),
        (SIZE, True, ["head"]),
        (20 * MIB, True, ["head"]),
    ],
)
def test_opening_what_was_looked_at_asks_a_quorum(
    buckets: ConfiguredSet, path: str, size: int, is_cached: bool, asked: list[str]
) -> None:
    """Where all confirm a version, that is one replica; a small object comes with its answer.

    The manifest of a large one, which is an object of its own, is not read again.
    """
    data = content(size)
    buckets.fs().pipe_file(path, data)
    fs = buckets.fs()
    assert fs.size(path) == size
    assert not is_cached or fs.cat_file(path, 0, 10) == data[:10]
    for proxy in buckets.proxies.values():
        proxy.forget()
    with fs.open(path) as file:
        assert file.size == size
        assert file.read(MIB) == data[:MIB]
        if not is_cached:
            file.seek(4 * MIB)
            assert file.read(MIB) == data[4 * MIB : 5 * MIB]
    found = [str(each.operation) for proxy in buckets.proxies.values() for each in proxy.requests]
    assert sorted(found) == asked


def test_what_this_process_stored_is_read_at_once(disks: ConfiguredSet, path: str) -> None:
    """By the filesystem itself, another one, or the set: nobody reads what has just been replaced or removed."""
    one, other, store = disks.fs(), disks.fs(), disks.storage()
    key = path.partition("/")[2]
    writes: tuple[Callable[[bytes], Any], ...] = (
        lambda data: one.pipe_file(path, data),
        lambda data: other.pipe_file(path, data),
        lambda data: store.replicate(io.BytesIO(data), key, overwrite=True),
    )
    for number, write in enumerate(writes):
        write(b"%d" % number)
        assert one.cat_file(path) == other.cat_file(path) == store.read(key) == b"%d" % number
    store.remove(key)
    assert not one.exists(path)
    assert not other.exists(path)


def test_sizes_are_those_of_the_newest_version(disks: ConfiguredSet, path: str) -> None:
    """Whichever replica is listed first has missed it: `ls`, `find` and `du` agree with `info`."""
    folder = path.rpartition("/")[0]
    disks.fs().pipe_file(path, b"old")
    stale = disks.bases["local0"] / path.partition("/")[2]
    manifest = disks.bases["local0"] / manifest_name(path.partition("/")[2])
    before = stale.read_bytes(), manifest.read_bytes()
    disks.fs().pipe_file(path, b"newer")
    stale.write_bytes(before[0])
    manifest.write_bytes(before[1])
    fs = disks.fs()
    assert fs.info(path)["size"] == 5
    assert [each["size"] for each in fs.ls(folder)] == [5]
    assert fs.find(folder, detail=True)[path]["size"] == fs.du(folder) == 5


def test_absence_must_be_proven(buckets: ConfiguredSet, path: str) -> None:
    """A path that one replica lacks is unknown, not absent, while the other may have the only copy."""
    buckets.min_copies = 1
    assert not buckets.fs().exists(path)
    with pytest.raises(FileNotFoundError):
        buckets.fs().cat_file(path)
    buckets.proxies["moto0"].add(Refuse())
    for method in (
        FsbackupFileSystem.info,
        FsbackupFileSystem.exists,
        FsbackupFileSystem.ls,
        FsbackupFileSystem.cat_file,
    ):
        fs = buckets.fs()
        with pytest.raises(OSError, match="moto0") as caught:
            getattr(fs, method.__name__)(path)
        assert not isinstance(caught.value, FileNotFoundError)


def test_absence_is_proven_where_all_must_confirm(buckets: ConfiguredSet, path: str) -> None:
    """Then one of them is enough."""
    buckets.fs().pipe_file(f"{path}.other", b"1")
    buckets.proxies["moto0"].add(Refuse())
    fs = buckets.fs()
    assert not fs.exists(path)
    assert fs.find(path) == []
    for method in (fs.info, fs.ls, fs.cat_file):
        with pytest.raises(FileNotFoundError):
            method(path)


def test_directories_without_one_replica(buckets: ConfiguredSet, path: str) -> None:
    """The files that the other one lists exist."""
    fs = buckets.fs()
    fs.pipe_file(path, b"1")
    buckets.proxies["moto0"].add(Refuse())
    parent = path.rpartition("/")[0]
    fs = buckets.fs()
    assert fs.isdir(parent)
    assert fs.find(parent) == fs.ls(parent, detail=False) == [path]
    assert fs.cat(path) == b"1"


def test_a_dead_replica_is_waited_for_once(buckets: ConfiguredSet, path: str) -> None:
    """Thirty files read in turn do not each wait for it."""
    fs = buckets.fs()
    names = [f"{path}/{number}" for number in range(30)]
    fs.pipe(dict.fromkeys(names, b"x"))
    refusal = buckets.proxies["moto0"].add(Refuse())
    fs = buckets.fs()
    assert [fs.cat_file(name) for name in names] == [b"x"] * 30
    # One look-up takes about twenty attempts, for manifest and metadata; thirty would take hundreds.
    assert 0 < refusal.hits <= 60


def test_directory_semantics(disks: ConfiguredSet, path: str) -> None:
    """Directories are common prefixes of keys; fsbackup's records are never listed."""
    fs = disks.fs()
    top = path.rpartition("/")[0]
    fs.pipe({f"{top}/a/b/one": b"1", f"{top}/a/two": b"22", f"{top}/three": b"333"})
    assert fs.ls(top, detail=False) == [f"{top}/a", f"{top}/three"]
    assert [each["type"] for each in fs.ls(top)] == ["directory", "file"]
    assert fs.find(top) == [f"{top}/a/b/one", f"{top}/a/two", f"{top}/three"]
    assert fs.find(top, maxdepth=2) == [f"{top}/a/two", f"{top}/three"]
    assert fs.glob(f"{top}/**/t*") == [f"{top}/a/two", f"{top}/three"]
    assert fs.du(top) == 6
    assert [(root, sorted(dirs), sorted(files)) for root, dirs, files in fs.walk(top)] == [
        (top, ["a"], ["three"]),
        (f"{top}/a", ["b"], ["two"]),
        (f"{top}/a/b", [], ["one"]),
    ]
    assert not [each for each in fs.find(SET) + fs.ls(SET, detail=False) if ".fsbackup" in each]
    assert fs.ls("", detail=False) == [SET]
    assert fs.info(f"{top}/a")["type"] == "directory"
    with pytest.raises(IsADirectoryError):
        fs.open(f"{top}/a")
    with pytest.raises(FileNotFoundError):
        fs.info(f"{SET}/.fsbackup/manifests/{TOP}")


def test_large_directories_are_skipped(disks: ConfiguredSet, path: str) -> None:
    """A directory of 2,500 files beside others is one entry."""
    top = path.rpartition("/")[0]
    for base in disks.bases.values():
        many = base / key_of(top) / "many"
        many.mkdir(parents=True)
        for number in range(2500):
            (many / f"{number:04}").write_bytes(b"")
    fs = disks.fs()
    fs.pipe({f"{top}/a": b"1", f"{top}/z": b"1"})
    assert fs.ls(top, detail=False) == [f"{top}/a", f"{top}/many", f"{top}/z"]
    assert len(fs.ls(f"{top}/many")) == 2500


def test_info(disks: ConfiguredSet, path: str) -> None:
    """Size, hash, replicas and time of the version."""
    fs = disks.fs()
    fs.pipe_file(path, b"abc")
    info = fs.info(f"fsbackup://{path}")
    assert info["name"] == path
    assert (info["size"], info["type"], info["replicas"]) == (3, "file", ["local0", "local1"])
    assert info["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fs.modified(path).timestamp() == pytest.approx(info["mtime"])
    assert (fs.ukey(path), fs.checksum(path)) == (info["sha256"], int(info["sha256"], 16))


@pytest.mark.parametrize("created_at", ["once", 7])
def test_a_manifest_without_a_date_costs_its_own_replica(disks: ConfiguredSet, path: str, created_at: Any) -> None:
    """A `created_at` that is no date makes one manifest a damaged one; the other replica proves the object."""
    fs = disks.fs()
    fs.pipe_file(path, b"abc")
    before = fs.info(path)
    file = next(iter(disks.bases.values())) / manifest_name(key_of(path))
    record = load(file.read_bytes())
    assert isinstance(record, Manifest)
    file.write_bytes(dump(replace(record, created_at=created_at)))
    fs = disks.fs()
    info = fs.info(path)
    assert (info["size"], info["mtime"], info["replicas"]) == (3, before["mtime"], ["local1"])
    assert fs.cat_file(path) == b"abc"
    assert fs.ls(path, detail=False) == [path]


def test_an_object_of_another_tool(disks: ConfiguredSet, path: str) -> None:
    """An object without a manifest can be read, and has no hash."""
    for base in disks.bases.values():
        file = base / key_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"plain")
    fs = disks.fs()
    assert fs.cat_file(path, 1, 3) == b"la"
    assert fs.info(path)["sha256"] is None
    assert fs.ukey(path) == disks.fs().ukey(path)


def test_an_unknown_set(disks: ConfiguredSet) -> None:
    """A misspelt set is not reported as a missing file."""
    with pytest.raises(ConfigError, match=r"no replication set.*pair"):
        disks.fs().exists("triple/x")


def test_get_file_is_whole_or_not_there(buckets: ConfiguredSet, path: str, tmp_path: Path) -> None:
    """A download that fails leaves the target as it was."""
    fs = buckets.fs()
    fs.pipe_file(path, content(SIZE))
    target = tmp_path / "target"
    target.write_bytes(b"before")
    for name, proxy in buckets.proxies.items():
        proxy.add(Corrupt(), on="get", key=buckets.data(name, key_of(path)))
    with pytest.raises(IntegrityError):
        fs.get_file(path, str(target))
    assert target.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["target"]


def test_within_a_running_loop(disks: ConfiguredSet, path: str) -> None:
    """As in a notebook: synchronous methods, and coroutines awaited on another loop."""
    fs = disks.fs()
    other = disks.fs(asynchronous=True)

    async def notebook() -> bytes:
        fs.pipe_file(path, b"day")
        assert fs.cat_file(path) == b"day"
        assert await fs._cat_file(path) == b"day"
        found: bytes = await other._cat_file(path)
        return found

    assert asyncio.run(notebook()) == b"day"
