"""The base class of the contract, and helpers that write to a store as the upload engine does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest

from fsbackup.stores.base import ObjectStat, ObjectStore, ObjectWriter, Part, WritePlan
from fsbackup.testing.place import ObjectPlace


def random_bytes(size: int, seed: int = 0) -> bytes:
    """Return reproducible pseudo-random bytes."""
    return random.Random(seed).randbytes(size)


def split(data: bytes, part_size: int) -> list[Part]:
    """Return `data` as the parts that a writer gets."""
    starts = range(0, max(1, len(data)), part_size)
    return [
        Part(number, start, data[start : start + part_size], last=start + part_size >= len(data))
        for number, start in enumerate(starts, 1)
    ]


async def write(
    store: ObjectStore,
    name: str,
    data: bytes,
    part_size: int,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    **plan: Any,
) -> ObjectStat:
    """Write one object in parts, as many at once as the writer takes."""
    settings = {"size": len(data), "part_size": part_size, **plan}
    writer = store.writer(name, WritePlan(**settings), on_progress)
    try:
        await write_parts(writer, split(data, part_size))
        return await writer.commit()
    except BaseException:
        await writer.abort()
        raise


async def write_parts(writer: ObjectWriter, parts: list[Part]) -> None:
    """Write parts, as many at once as the writer takes and each started in its order."""
    gate = asyncio.Semaphore(writer.concurrency)

    async def one(part: Part) -> None:
        async with gate:
            await writer.write(part)

    tasks = [asyncio.create_task(one(part)) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def list_names(found: AsyncIterator[ObjectStat]) -> list[str]:
    """Return the names of a listing."""
    return [item.name async for item in found]


class Contract:
    """Base of the parts of `ObjectStoreContract`: the fixture, and the settings that a subclass may change."""

    #: Bytes of a part. S3 refuses smaller ones, except the last; other stores may set less for a faster suite.
    part_size: ClassVar[int] = 5 * 1024 * 1024
    #: Number of objects that need more than one page to list; give the store a small page size where it has one.
    many_objects: ClassVar[int] = 30
    #: Whether ``a`` and ``a/b`` may both exist; on a disk they cannot.
    nested_names: ClassVar[bool] = True

    @pytest.fixture
    def place(self) -> ObjectPlace:
        """Return empty storage; a subclass must define it."""
        raise NotImplementedError("a subclass of the contract must define the fixture `place`")
