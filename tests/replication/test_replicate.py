"""Storing one object on every replica: every size, from files and streams, byte for byte and provable."""

from __future__ import annotations

import fcntl
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fsbackup.errors import SourceError
from fsbackup.replication.storage import ReplicatedStorage
from tests.replication.raw_replicas import RawBucket, proves
from tests.replication.rig import MIB, PART, ReplicaRig, content

SIZES = [0, 1, PART, PART + 1, 2 * PART + 12_345]
KEY = "backups/full/db.sql.gz"


@contextmanager
def pipe(data: bytes) -> Iterator[BinaryIO]:
    """Yield the reading end of a pipe into which a thread writes, as standard input is."""
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb", buffering=0) as out:
            view = memoryview(data)
            while view:
                view = view[out.write(view[:MIB]) :]

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with open(reading, "rb") as stream:
            yield stream
    finally:
        thread.join()


def assert_stored(rig: ReplicaRig, key: str, data: bytes, replaces: str | None = None) -> None:
    """Check every replica by hand: the bytes, and each field of the manifest that follows from them."""
    versions = set()
    for name, raw in rig.raw_replicas.items():
        assert raw.get(key) == data, name
        record = raw.manifest(key)
        assert record is not None, name
        assert proves(record, data), name
        assert (record["kind"], record["key"]) == ("manifest", key)
        assert abs(record["generation"] / 1000 - time.time()) < 120, "a generation starts from the clock"
        assert record.get("replaces") == replaces
        versions.add((record["generation"], record["write_id"]))
        assert record["block_size"] == MIB
        assert isinstance(raw, RawBucket) or "etag" in record, name
    assert len(versions) == 1, "the same version everywhere"


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_stored_whole_and_provable_on_every_replica(each_rig: ReplicaRig, size: int) -> None:
    """A file of any size has the same bytes and a right manifest everywhere, and nothing else is left."""
    data, path = content(size), each_rig.file(content(size))
    path.chmod(0o640)
    os.utime(path, ns=(10**18, 1_700_000_000_000_000_000))
    report = each_rig.store().replicate(path, KEY)
    assert report.status == "complete", report.as_dict()
    assert {name: result.bytes_sent for name, result in report.replicas.items()} == dict.fromkeys(
        each_rig.raw_replicas, size
    )
    assert_stored(each_rig, KEY, data)
    each_rig.clean(KEY)
    record = each_rig.raw_replicas["local"].manifest(KEY)
    assert record is not None
    assert record["source"]["mode"] == 0o640
    assert record["source"]["mtime_ns"] == 1_700_000_000_000_000_000


@pytest.mark.parametrize("size", [0, PART, 2 * PART + 12_345])
def test_a_stream_is_stored_like_a_file(each_rig: ReplicaRig, size: int) -> None:
    """What comes out of a pipe, of a length nobody knows, is stored whole and provable everywhere."""
    data = content(size)
    with pipe(data) as stream:
        report = each_rig.store().replicate(stream, KEY, allow_empty=True)
    assert report.status == "complete", report.as_dict()
    assert_stored(each_rig, KEY, data)
    each_rig.clean(KEY)


@contextmanager
def fifo(path: Path) -> Iterator[Path]:
    """Yield a FIFO whose writer ends without a byte, as ``<(command)`` is of a command that fails."""
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(b""))
    thread.start()
    yield path
    thread.join()


@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "overwrite"])
@pytest.mark.parametrize("kind", ["pipe", "memory", "fifo"])
def test_an_empty_stream_is_refused(rig: ReplicaRig, kind: str, overwrite: bool) -> None:
    """A command that failed before its first byte gives an empty stream: nothing is sent, nothing replaced."""
    store = rig.store()
    if overwrite:
        store.replicate(rig.file(b"the last good dump"), KEY)
    before = {name: raw.everything() for name, raw in rig.raw_replicas.items()}
    for proxy in rig.proxies.values():
        proxy.forget()
    sources: dict[str, AbstractContextManager[Any]] = {
        "pipe": pipe(b""),
        "memory": nullcontext(io.BytesIO()),
        "fifo": fifo(rig.tmp / "fifo"),
    }
    with sources[kind] as source, pytest.raises(SourceError, match=r"empty stream.*--allow-empty"):
        store.replicate(source, KEY, overwrite=overwrite)
    assert {name: raw.everything() for name, raw in rig.raw_replicas.items()} == before
    for proxy in rig.proxies.values():
        assert {each.method for each in proxy.requests} <= {"GET", "HEAD"}


def test_an_empty_stream_in_a_batch_is_an_outcome(rig: ReplicaRig) -> None:
    """The other items are stored; with `allow_empty` the empty one is, too."""
    store = rig.store(names=("local",))
    items = [(io.BytesIO(), "batch/empty"), (io.BytesIO(b"x"), "batch/full")]
    outcomes = {outcome.item.key: outcome for outcome in store.replicate_many(items)}
    assert isinstance(outcomes["batch/empty"].error, SourceError)
    assert outcomes["batch/full"]
    assert rig.raw_replicas["local"].get("batch/empty") is None
    assert all(store.replicate_many([(io.BytesIO(), "batch/empty")], allow_empty=True))
    assert rig.raw_replicas["local"].provable("batch/empty") == b""


def test_a_stream_that_is_not_ready_is_not_at_its_end(each_rig: ReplicaRig) -> None:
    """A non-blocking pipe returns None between its bytes; taken for the end, that would lose the rest.

    Its number is above what `select` takes, as in a process with many open files.
    """
    low, writing = os.pipe()
    reading = fcntl.fcntl(low, fcntl.F_DUPFD, 2000)
    os.close(low)
    os.set_blocking(reading, False)
    asked = threading.Event()

    class Slow(io.FileIO):
        def read(self, size: int | None = -1, /) -> Any:
            data = super().read(size)
            if data is None:
                asked.set()
            return data

    def feed() -> None:
        os.write(writing, b"first half, ")
        asked.wait(10)
        os.write(writing, b"second half")
        os.close(writing)

    thread = threading.Thread(target=feed)
    thread.start()
    with Slow(reading, "rb") as stream:
        try:
            report = each_rig.store().replicate(stream, KEY)
        except OSError:
            thread.join()
            assert all(raw.get(KEY) is None for raw in each_rig.raw_replicas.values())
        else:
            thread.join()
            assert report.status == "complete"
            assert_stored(each_rig, KEY, b"first half, second half")


@pytest.mark.parametrize("size", [0, PART + 1])
def test_the_same_again_sends_nothing(rig: ReplicaRig, size: int) -> None:
    """A second run with the same content is success and reports `already`, with not one PUT or POST."""
    path = rig.file(content(size))
    rig.store().replicate(path, KEY)
    for proxy in rig.proxies.values():
        proxy.forget()
    report = rig.store().replicate(path, KEY)
    assert report.status == "complete"
    assert report.already
    assert sum(result.bytes_sent for result in report.replicas.values()) == 0
    for proxy in rig.proxies.values():
        assert {each.method for each in proxy.requests} <= {"GET", "HEAD"}
    assert_stored(rig, KEY, content(size))


def test_the_strict_providers_see_no_write_when_the_same_comes_again(each_rig: ReplicaRig) -> None:
    """A stream of the same content again is read to its end, and changes nothing anywhere."""
    data = content(PART + 77)
    with pipe(data) as stream:
        each_rig.store().replicate(stream, KEY)
    before = {name: raw.manifest(KEY) for name, raw in each_rig.raw_replicas.items()}
    with pipe(data) as stream:
        report = each_rig.store().replicate(stream, KEY)
    assert report.already, report.as_dict()
    assert {name: raw.manifest(KEY) for name, raw in each_rig.raw_replicas.items()} == before


@pytest.mark.parametrize("size", [1000, 999, PART + 1])
def test_other_content_is_a_conflict_and_changes_nothing(rig: ReplicaRig, size: int) -> None:
    """Create-only: other bytes under an existing key, also of the same size, are refused by every replica."""
    store = rig.store()
    store.replicate(rig.file(content(1000)), KEY)
    report = store.replicate(rig.file(content(size, seed=1)), KEY)
    assert report.status == "failed"
    assert {result.error_type for result in report.replicas.values()} == {"ConflictError"}
    assert_stored(rig, KEY, content(1000))
    rig.clean(KEY)
    with pipe(content(size, seed=1)) as stream:
        report = store.replicate(stream, KEY)
    assert {result.error_type for result in report.replicas.values()} == {"ConflictError"}
    assert_stored(rig, KEY, content(1000))
    rig.clean(KEY)


@pytest.mark.parametrize("size", [1000, PART + 5])
def test_a_replacement_is_the_next_generation(each_rig: ReplicaRig, size: int) -> None:
    """`overwrite` replaces everywhere, counts the generation up and names what it replaced."""
    store: ReplicatedStorage = each_rig.store()
    old = store.replicate(each_rig.file(content(1000)), KEY)
    report = store.replicate(each_rig.file(content(size, seed=1)), KEY, overwrite=True)
    assert report.status == "complete", report.as_dict()
    assert old.generation is not None
    assert report.generation is not None
    assert report.generation > old.generation
    assert_stored(each_rig, KEY, content(size, seed=1), replaces=old.sha256)
    each_rig.clean(KEY)


def test_the_source_is_read_once(rig: ReplicaRig) -> None:
    """However many replicas there are, each byte of the source is read once, and a FIFO is opened once."""
    data = content(2 * PART + 999)

    class Counted(io.BytesIO):
        given = 0

        def read(self, size: int | None = -1, /) -> bytes:
            got = super().read(size)
            self.given += len(got)
            return got

        def seek(self, *_: int) -> int:
            raise AssertionError("a stream was rewound")

    stream = Counted(data)
    assert rig.store().replicate(stream, KEY).status == "complete"
    assert stream.given == len(data)
    path = rig.tmp / "fifo"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(data))
    thread.start()
    assert rig.store().replicate(path, "from/fifo").status == "complete"
    thread.join()
    assert_stored(rig, "from/fifo", data)


def test_a_file_is_read_once(rig: ReplicaRig) -> None:
    """The kernel's own count of the bytes read by this process grows by one file, not by one per replica."""
    size = 4 * PART

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    store = rig.store(names=("local",))
    path = rig.file(content(size))
    before = count()
    assert store.replicate(path, KEY).status == "complete"
    assert size <= count() - before < 2 * size
