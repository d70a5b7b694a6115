"""Read-ahead: the right bytes for any sequence of reads, and no extra requests for random ones."""

from __future__ import annotations

import os
import pickle
import random
import secrets

import pytest

from fsbackup.errors import IntegrityError
from tests.filesystem.configured_set import ROOT, SET, ConfiguredSet
from tests.replication.rig import MIB, content
from tests.servers.faults import Corrupt, Record

SIZE = 23 * MIB + 4321


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def reads(configured: ConfiguredSet, path: str) -> list[Record]:
    """Return the requests for the object's data."""
    key = path.removeprefix(f"{SET}/")
    return [
        request
        for name, proxy in configured.proxies.items()
        for request in proxy.requests
        if request.operation == "get" and configured.data(name, key) in request.key
    ]


def fetched(configured: ConfiguredSet, path: str) -> int:
    """Return how many bytes of the object's data the servers sent."""
    return sum(request.answer_bytes for request in reads(configured, path))


def first_byte(request: Record) -> int:
    """Return the first byte that a request asks for."""
    return int(dict(request.headers)["Range"].removeprefix("bytes=").partition("-")[0])


@pytest.mark.each_choice
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [None, MIB, 100_000])
def test_any_sequence_of_reads(disks: ConfiguredSet, path: str, seed: int, block_size: int | None) -> None:
    """Sequential and random, short and long, forwards and backwards."""
    data = content(SIZE)
    fs = disks.fs()
    fs.pipe_file(path, data)
    numbers = random.Random(seed)
    with fs.open(path, block_size=block_size) as file:
        for _ in range(120):
            if numbers.random() < 0.2:
                file.seek(numbers.randrange(SIZE + 10))
            at, length = file.tell(), numbers.choice([1, 8192, 700_000, MIB, 5 * MIB])
            assert file.read(length) == data[at : at + length]


def test_sequential_reads_fetch_each_byte_once(buckets: ConfiguredSet, path: str) -> None:
    """With few requests of whole blocks; long ones start at multiples of a power of two."""
    data = content(SIZE)
    fs = buckets.fs()
    fs.pipe_file(path, data)
    for proxy in buckets.proxies.values():
        proxy.forget()
    with fs.open(path) as file:
        assert b"".join(iter(lambda: file.read(300_000), b"")) == data
    assert SIZE <= fetched(buckets, path) < 1.1 * SIZE  # on a busy machine a chunk may be requested twice
    windows = [request for request in reads(buckets, path) if request.answer_bytes >= 4 * MIB]
    assert {first_byte(request) % (4 * MIB) for request in windows} == {0}


def test_random_reads_fetch_their_blocks_only(buckets: ConfiguredSet, path: str) -> None:
    """Also when the first read starts at byte 0."""
    data = content(SIZE)
    fs = buckets.fs()
    fs.pipe_file(path, data)
    with fs.open(path) as file:
        for at in (0, 20 * MIB, 3 * MIB + 7, 11 * MIB):
            file.seek(at)
            assert file.read(1000) == data[at : at + 1000]
    assert fetched(buckets, path) == 4 * MIB


def test_an_error_ahead_is_raised_when_it_is_reached(buckets: ConfiguredSet, path: str) -> None:
    """Bytes before the wrong block are read; the block itself is an error every time."""
    data = content(SIZE)
    fs = buckets.fs()
    fs.pipe_file(path, data)
    with fs.open(path, block_size=MIB) as file:
        assert file.read(MIB) + file.read(MIB) == data[: 2 * MIB]
        for proxy in buckets.proxies.values():
            proxy.add(Corrupt(), on="get", key="data.bin")
        with pytest.raises(IntegrityError):
            b"".join(iter(lambda: file.read(MIB), b""))
        at = file.tell()
        with pytest.raises(IntegrityError):
            file.read(MIB)
        for proxy in buckets.proxies.values():
            proxy.clear()
        assert file.read() == data[at:]


def test_another_process_reads_on(disks: ConfiguredSet, path: str) -> None:
    """A forked child with its parent's file, and a process that unpickles it."""
    data = content(SIZE)
    fs = disks.fs()
    fs.pipe_file(path, data)
    with fs.open(path, block_size=MIB) as file:
        for _ in range(4):
            file.read(MIB)
        if (child := os.fork()) == 0:
            os._exit(0 if file.read() == data[4 * MIB :] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pickle.loads(pickle.dumps(file)).read() == data[4 * MIB :]
        assert file.read() == data[4 * MIB :]
