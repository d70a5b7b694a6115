"""What blocks outside of fsbackup holds up nothing else, however many such threads are at work."""

from __future__ import annotations

import asyncio
import io
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from fsbackup import GenericStorage, ReplicatedStorage
from fsbackup.engine.replicas import Spool
from fsbackup.loop import get_loop
from tests.replication.rig import MIB, content

KEY = "backups/db.dump"
DATA = content(40 * MIB)
#: Seconds within which anything here is done that is not held up for ever.
_LIMIT = 30


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Have the I/O loop share one thread among all that is handed to its executor: the worst case, at once."""
    loop, shared = get_loop(), ThreadPoolExecutor(1)

    async def use(executor: ThreadPoolExecutor) -> None:
        asyncio.get_running_loop().set_default_executor(executor)

    asyncio.run_coroutine_threadsafe(use(shared), loop).result(_LIMIT)
    yield
    asyncio.run_coroutine_threadsafe(use(ThreadPoolExecutor()), loop).result(_LIMIT)
    shared.shutdown(wait=False)


@pytest.fixture
def places(tmp_path: Path) -> ReplicatedStorage:
    """Return a set of two places that cannot be read again while an object is written, and so with a spool."""
    top = secrets.token_hex(4)
    backends = [GenericStorage(url=f"memory://{top}/{each}", name=each) for each in ("one", "two")]
    return ReplicatedStorage(backends, name="places", spool=Spool(tmp_path, 64 * MIB), append=True)


class _Blocked(io.RawIOBase):
    """A stream whose reader takes nothing until it is `released`, as behind ``| less``."""

    def __init__(self) -> None:
        self.is_written_to, self.released = threading.Event(), threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.is_written_to.set()
        assert self.released.wait(2 * _LIMIT)
        return len(data)  # type: ignore[arg-type]


def test_a_stream_that_nobody_reads_holds_up_no_other_read(places: ReplicatedStorage) -> None:
    places.replicate(io.BytesIO(DATA), KEY)
    stream = _Blocked()
    with ThreadPoolExecutor(2) as callers:
        restoring = callers.submit(places.restore, KEY, cast(BinaryIO, stream))
        try:
            assert stream.is_written_to.wait(_LIMIT)
            reading = callers.submit(places.read, KEY, 0, 4 * MIB)
            assert reading.result(_LIMIT) == DATA[: 4 * MIB]
        finally:
            stream.released.set()
    assert restoring.result().size == len(DATA)


def test_a_copy_of_what_nothing_proves_waits_for_no_thread_of_its_own(places: ReplicatedStorage) -> None:
    """Its bytes go through a pipe into an upload that keeps them in the spool, while the pipe is full."""
    for backend in places.backends.values():
        backend.fs.pipe_file(f"{backend.location}/{KEY}", DATA)
    with ThreadPoolExecutor(1) as callers:
        callers.submit(places.fs.cp_file, f"places/{KEY}", "places/copy").result(_LIMIT)
    assert places.read("copy") == DATA


def test_a_file_may_be_opened_on_the_loop_that_opens_it(places: ReplicatedStorage) -> None:
    """To append, which reads the object: the thread that opens it waits for those that prove what is read."""
    places.replicate(io.BytesIO(DATA), KEY)

    async def append() -> None:
        async with await places.fs.open_async(f"places/{KEY}", "ab") as file:
            await file.write(b"more")

    asyncio.run_coroutine_threadsafe(append(), get_loop()).result(_LIMIT)
    assert places.read(KEY, len(DATA)) == b"more"


class _Exhausted(io.RawIOBase):
    """A stream of somebody's own, whose iterator has come to its end."""

    def readable(self) -> bool:
        return True

    writable = readable

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002
        raise StopIteration

    def write(self, data: object) -> int:  # noqa: ARG002
        raise StopIteration


def test_a_stream_may_raise_what_no_coroutine_can(places: ReplicatedStorage) -> None:
    """`StopIteration` is an error like any other: a future refuses it, and nobody would hear of it."""
    stream = cast(BinaryIO, _Exhausted())
    with ThreadPoolExecutor(1) as callers:
        report = callers.submit(places.replicate, stream, KEY).result(_LIMIT)
        assert report.status == "failed"
        places.replicate(io.BytesIO(DATA), KEY)
        with pytest.raises(RuntimeError, match="StopIteration"):
            callers.submit(places.restore, KEY, stream).result(_LIMIT)
