"""`status` of very many objects: a request per thousand names, and no more memory than for a tenth of them."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from tests.matrix import matrix
from tests.replication.raw_replicas import manifest_name
from tests.replication.rig import ReplicaRig
from tests.servers.faults import FaultProxy

#: How many objects, how many for comparison, and how many bytes of memory the former may take more: 46 for each.
SCALES = [(8_000, 2_000, 5 << 16), matrix(20_000, 4_000, 5 << 17), matrix(100_000, 10_000, 4 << 20)]
#: Directories of so many files each.
SPREAD = 1_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory for very many files, which do not outlive the test."""
    yield tmp_path / "disk"
    shutil.rmtree(tmp_path / "disk")


def key(number: int) -> str:
    return f"many/{number // SPREAD:03}/{number % SPREAD:03}"


def fill(disk: Path, first: int, last: int) -> None:
    """Put objects and what is listed as their manifests on a disk: links to few files, which cost least."""
    for number in range(first, last):
        if number % SPREAD == 0:
            _directory(disk, number)
        here = number // SPREAD * SPREAD
        if number != here:
            for name in (str, manifest_name):
                os.link(disk / name(key(here)), disk / name(key(number)))


def _directory(disk: Path, number: int) -> None:
    for name, size in ((key(number), 1), (manifest_name(key(number)), 600)):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_bytes(b"x" * size)


def peak_of(store: ReplicatedStorage, objects: int) -> int:
    """Return the most memory (bytes) that one status takes."""
    tracemalloc.start()
    try:
        status = store.status()
        assert (status.objects, status.groups[0].objects) == (objects, objects)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def lists(proxy: FaultProxy) -> int:
    """Return how many LISTs there were, and check that nothing else was asked but, once, the marker."""
    assert [record.operation for record in proxy.requests if record.operation != "list"] in ([], ["get"])
    return proxy.count("list")


@pytest.mark.timeout(600)  # tracing memory takes minutes for 100,000 objects on a busy machine
@pytest.mark.parametrize(("many", "few", "more"), SCALES)
def test_very_many_objects(rig: ReplicaRig, disk: Path, many: int, few: int, more: int) -> None:
    """A disk that has all, and a service that has none of them yet.

    What the service lacks costs it no request, but one for its marker; memory does not grow with the objects.
    """
    proxy = rig.proxies["r2"]
    store = ReplicatedStorage([LocalStorage(disk), rig.backend("r2")], min_copies=1, errors="raise")
    peaks = []
    for first, last in ((0, few), (few, many)):
        fill(disk, first, last)
        proxy.forget()
        peaks.append(peak_of(store, last))
        assert lists(proxy) == 2
    assert peaks[1] < peaks[0] + more
