"""The reads of the `filesystem` benchmark, small: all filesystems read the same, and what they ask the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.benchmarks.arena import Arena, arena, compete
from tests.benchmarks.contenders import LARGE, PLAIN, READERS, READS, reading
from tests.benchmarks.sources import csv_file, parquet_file
from tests.benchmarks.task import Task
from tests.servers.faults import FaultProxy, fault_proxy

pytestmark = pytest.mark.matrix

_SIZE = 6 << 20
_RANGES = 40
_OURS = [name for name in READERS if name != PLAIN]


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    with arena() as running:
        yield running


@pytest.fixture(scope="module")
def tasks(place: Arena) -> Iterator[dict[str, Task]]:
    """Return for each read the task to do it, with the file in place."""
    table = parquet_file(place.folder / "table.parquet", _SIZE)
    text = csv_file(place.folder / "table.csv", _SIZE)
    with (
        place.task(place.folder, [table.name], ("r2", "b2"), local=False) as of_table,
        place.task(place.folder, [text.name], ("r2", "b2"), local=False) as of_text,
    ):
        for each in (of_table, of_text):
            compete(each, LARGE["fsbackup"])
        yield {read: replace(of_text if read in ("csv", "whole") else of_table, count=_RANGES) for read in READS}


@contextmanager
def watched(task: Task) -> Iterator[tuple[Task, list[FaultProxy]]]:
    """Yield the task with a proxy before each server."""
    with fault_proxy(task.endpoints[0]) as one, fault_proxy(task.endpoints[1]) as two:
        yield replace(task, endpoints=[one.endpoint, two.endpoint]), [one, two]


@pytest.mark.parametrize("read", READS)
def test_requests(tasks: dict[str, Task], read: str) -> None:
    """One LIST that s3fs would not send; one manifest per object and replica; no more GETs of data.

    The LIST is of all tombstones. The manifest costs a HEAD and, for an object of several parts, a GET.
    """
    with watched(tasks[read]) as (task, proxies):
        plain = compete(task, reading(PLAIN, read)).said["found"]
        heads, lists = proxies[0].count("head"), proxies[0].count("list")
        gets = proxies[0].count("get")
        for name in _OURS:
            for proxy in proxies:
                proxy.forget()
            assert compete(task, reading(name, read)).said["found"] == plain
            for proxy in proxies[: READERS[name][1]]:
                assert proxy.count("head") <= heads + 1, name
                assert proxy.count("list") <= lists + 1, name
                assert proxy.count("get", ".fsbackup/records/") <= 1, name
                asked = proxy.count("head") + proxy.count("get") + proxy.count("head_bucket") + proxy.count("list")
                assert proxy.count("any") == asked, name
                assert proxy.count("head_bucket") <= 1, "what a 404 means is found out once"
            data = sum(
                proxy.count("get", task.files[0]) - proxy.count("get", ".fsbackup/")
                for proxy in proxies[: READERS[name][1]]
            )
            # s3fs gets 50 MiB with one request, more than this file: a long one comes in pieces here.
            assert data <= max(gets, 8), name
