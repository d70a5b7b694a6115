"""Small reads here and there in a large file: once a block was proven, they cost little more than they want."""

from __future__ import annotations

import random
import secrets

import pytest

from fsbackup.errors import IntegrityError
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.site import ROOT, SET, Site
from tests.replication.world import MIB, content
from tests.servers.faults import Corrupt

SIZE = 3 * MIB + 100_001
KIB = 1024


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def data_bytes(site: Site, path: str) -> int:
    """Return how many bytes of the object the servers gave since `forget`."""
    names = {name: site.data(name, path.removeprefix(f"{SET}/")) for name in site.proxies}
    asked = [(name, each) for name, proxy in site.proxies.items() for each in proxy.requests]
    return sum(each.answer_bytes for name, each in asked if each.operation == "get" and each.key == names[name])


def forgetful(site: Site) -> FsbackupFileSystem:
    """Return a filesystem that keeps no block."""
    return site.fs(cache_size=0)


def test_a_block_is_read_whole_once(buckets: Site, path: str) -> None:
    """Later reads in it take the leaves that they touch, wherever they lie."""
    data = content(SIZE)
    fs = forgetful(buckets)
    fs.pipe_file(path, data)
    ranges = [(MIB + 5, MIB + 70_000), (MIB + 900 * KIB, 2 * MIB), (2 * MIB - 1, 2 * MIB + 1), (SIZE - 7, SIZE)]
    expected = [2 * MIB, 2 * MIB, 3 * MIB, MIB]
    for (start, end), most in zip(ranges, expected, strict=True):
        assert fs.cat_file(path, start, end) == data[start:end]
        for proxy in buckets.proxies.values():
            proxy.forget()
        assert fs.cat_file(path, start, end) == data[start:end]
        assert 0 < data_bytes(buckets, path) <= end - start + 2 * 64 * KIB < most


def test_ranges_are_slices(disks: Site, path: str) -> None:
    """Of whatever blocks the leaves are known by then."""
    data = content(SIZE)
    fs = forgetful(disks)
    fs.pipe_file(path, data)
    chance = random.Random(path)
    for _ in range(300):
        start = chance.randrange(SIZE)
        end = min(start + chance.choice([1, 1000, 65_536, 300_000, 2 * MIB]), SIZE)
        assert fs.cat_file(path, start, end) == data[start:end]


def test_a_wrong_leaf_is_had_elsewhere(buckets: Site, path: str) -> None:
    """A leaf is proven as a block is, and asked of another replica."""
    data = content(SIZE)
    fs = forgetful(buckets)
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


def test_a_replaced_object_has_other_leaves(disks: Site, path: str) -> None:
    """What is known is known of a content, not of a name."""
    fs = forgetful(disks)
    for seed in (1, 2, 1):
        data = content(SIZE, seed)
        fs.pipe_file(path, data)
        assert fs.cat_file(path, 10, 20) == fs.cat_file(path, 10, 20) == data[10:20]
