"""The contract of `ObjectWriter.abort` and of cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.testing.driving import Contract, random_bytes, split, write, write_parts
from fsbackup.testing.place import ObjectPlace


class AbortingContract(Contract):
    """A write without a commit leaves nothing, and the old object stays."""

    @pytest.mark.parametrize("written", [0, 1, 2, 3])
    def test_abort_leaves_nothing(self, place: ObjectPlace, written: int) -> None:
        """An abort after any number of parts leaves nothing."""

        async def scenario() -> None:
            writer = place.store.writer(
                "dir/aborted", WritePlan(3 * self.part_size, self.part_size), lambda _: None
            )
            await write_parts(writer, split(random_bytes(3 * self.part_size), self.part_size)[:written])
            await writer.abort()

        run(scenario())
        assert place.raw.all_names() == set()

    def test_abort_of_a_replacement_keeps_the_old_object(self, place: ObjectPlace) -> None:
        """An aborted replacement changes nothing."""

        async def scenario() -> None:
            writer = place.store.writer("kept", WritePlan(5, self.part_size), lambda _: None)
            await writer.write(Part(1, 0, b"newer", last=True))
            await writer.abort()

        place.raw.put("kept", b"old")
        run(scenario())
        assert (place.raw.all_names(), place.raw.get("kept")) == ({"kept"}, b"old")

    def test_abort_twice(self, place: ObjectPlace) -> None:
        """A second abort does nothing and does not fail."""

        async def scenario() -> None:
            writer = place.store.writer("twice", WritePlan(None, self.part_size), lambda _: None)
            await write_parts(writer, split(random_bytes(2 * self.part_size), self.part_size))
            await writer.abort()
            await writer.abort()

        run(scenario())
        assert place.raw.all_names() == set()

    @pytest.mark.parametrize("parts", [1, 2])
    def test_abort_after_commit_does_nothing(self, place: ObjectPlace, parts: int) -> None:
        """An abort after the commit changes nothing."""

        async def scenario() -> None:
            writer = place.store.writer("done", WritePlan(len(data), self.part_size), lambda _: None)
            await write_parts(writer, split(data, self.part_size))
            await writer.commit()
            await writer.abort()

        data = random_bytes(parts * self.part_size)
        run(scenario())
        assert place.raw.get("done") == data

    @pytest.mark.parametrize("steps", [1, 2, 4, 8])
    def test_a_cancelled_abort_leaves_nothing(self, place: ObjectPlace, steps: int) -> None:
        """A cancelled abort completes before the cancellation is raised."""

        async def scenario() -> None:
            writer = place.store.writer("dir/hurried", WritePlan(len(data), self.part_size), lambda _: None)
            await write_parts(writer, split(data, self.part_size)[:2])
            task = asyncio.create_task(writer.abort())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        data = random_bytes(3 * self.part_size)
        run(scenario())
        assert place.raw.all_names() == set()

    @pytest.mark.parametrize("steps", [0, 1, 2, 4, 8, 16])
    def test_cancellation_leaves_nothing_or_the_whole(self, place: ObjectPlace, steps: int) -> None:
        """A write cancelled early or late leaves the old object or the new one, and nothing beside it."""

        async def scenario() -> None:
            task = asyncio.create_task(write(place.store, "dir/cancelled", new, self.part_size))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        new = random_bytes(3 * self.part_size, seed=1)
        place.raw.put("dir/cancelled", b"old")
        run(scenario())
        assert place.raw.get("dir/cancelled") in (b"old", new)
        assert place.raw.all_names() == {"dir/cancelled"}

    @pytest.mark.parametrize("after", [1, 2])
    def test_cancellation_between_bytes_keeps_the_old_object(self, place: ObjectPlace, after: int) -> None:
        """A write cancelled after some of its bytes have moved leaves the old object and nothing else."""

        async def scenario() -> None:
            bytes_moved = asyncio.Event()
            moves = iter(range(after - 1))
            task = asyncio.create_task(
                write(
                    place.store,
                    "dir/cancelled",
                    random_bytes(4 * self.part_size, seed=1),
                    self.part_size,
                    on_progress=lambda _: bytes_moved.set() if next(moves, None) is None else None,
                )
            )
            await bytes_moved.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        place.raw.put("dir/cancelled", b"old")
        run(scenario())
        assert place.raw.get("dir/cancelled") == b"old"
        assert place.raw.all_names() == {"dir/cancelled"}
