"""Small reads in a large file: after a block was proven once, they fetch little more than they return."""

from __future__ import annotations

import random
import secrets

import pytest

from fsbackup.errors import IntegrityError
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, SET, ConfiguredSet
from tests.replication.rig import MIB, content
from tests.servers.faults import Corrupt

SIZE = 3 * MIB + 100_001
KIB = 1024


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def data_bytes(configured: ConfiguredSet, path: str) -> int:
    """Return how many bytes of the object the servers sent since `forget`."""
    names = {name: configured.data(name, path.removeprefix(f"{SET}/")) for name in configured.proxies}
    asked = [(name, each) for name, proxy in configured.proxies.items() for each in proxy.requests]
    return sum(each.answer_bytes for name, each in asked if each.operation == "get" and each.key == names[name])


def uncached(configured: ConfiguredSet) -> FsbackupFileSystem:
    """Return a filesystem whose cache keeps no block."""
    return configured.fs(cache_size=0)


def test_a_block_is_read_whole_once(buckets: ConfiguredSet, path: str) -> None:
    """Later reads in it fetch the sub-blocks that they touch."""
    data = content(SIZE)
    fs = uncached(buckets)
    fs.pipe_file(path, data)
    ranges = [(MIB + 5, MIB + 70_000), (MIB + 900 * KIB, 2 * MIB), (2 * MIB - 1, 2 * MIB + 1), (SIZE - 7, SIZE)]
    expected = [2 * MIB, 2 * MIB, 3 * MIB, MIB]
    for (start, end), most in zip(ranges, expected, strict=True):
        assert fs.cat_file(path, start, end) == data[start:end]
        for proxy in buckets.proxies.values():
            proxy.forget()
        assert fs.cat_file(path, start, end) == data[start:end]
        assert 0 < data_bytes(buckets, path) <= end - start + 2 * 64 * KIB < most


def test_ranges_are_slices(disks: ConfiguredSet, path: str) -> None:
    """Whether or not hashes of sub-blocks are known."""
    data = content(SIZE)
    fs = uncached(disks)
    fs.pipe_file(path, data)
    chance = random.Random(path)
    for _ in range(300):
        start = chance.randrange(SIZE)
        end = min(start + chance.choice([1, 1000, 65_536, 300_000, 2 * MIB]), SIZE)
        assert fs.cat_file(path, start, end) == data[start:end]


def test_a_wrong_sub_block_comes_from_another_replica(buckets: ConfiguredSet, path: str) -> None:
    """A wrong sub-block is detected, and read from another replica."""
    data = content(SIZE)
    fs = uncached(buckets)
    fs.pipe_file(path, data)
    assert fs.cat_file(path, 100, 200) == data[100:200]
    key = path.removeprefix(f"{SET}/")
    rotten = [
        proxy.add(Corrupt(), on="get", key=buckets.data(name, key)) for name, proxy in buckets.proxies.items()
    ]
    with pytest.raises(IntegrityError):
        fs.cat_file(path, 150, 250)
    assert all(each.hits for each in rotten)
    for proxy in list(buckets.proxies.values())[1:]:
        proxy.clear()
    fs.invalidate_cache()
    assert fs.cat_file(path, 150, 250) == data[150:250]


def test_a_replaced_object_has_other_sub_blocks(disks: ConfiguredSet, path: str) -> None:
    """Hashes are kept by content, not by path."""
    fs = uncached(disks)
    for seed in (1, 2, 1):
        data = content(SIZE, seed)
        fs.pipe_file(path, data)
        assert fs.cat_file(path, 10, 20) == fs.cat_file(path, 10, 20) == data[10:20]
