"""The contract of `ObjectStore.writer` and of what it returns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import WritePlan
from fsbackup.testing.driving import Contract, list_names, random_bytes, split, write, write_parts
from fsbackup.testing.place import ObjectPlace


class WritingContract(Contract):
    """Objects are complete, and nothing is visible before `commit`."""

    @pytest.mark.parametrize("size", [0, 1, 1000])
    def test_write_of_one_part(self, place: ObjectPlace, size: int) -> None:
        """An object of one part holds exactly its bytes, also when it has none."""
        run(write(place.store, "one/part", random_bytes(size), self.part_size))
        assert place.raw.get("one/part") == random_bytes(size)

    @pytest.mark.parametrize("extra", [0, 1, 1000])
    def test_write_of_several_parts(self, place: ObjectPlace, extra: int) -> None:
        """Several parts become one object, whether the last is as long as the others or shorter."""
        data = random_bytes(2 * self.part_size + extra)
        run(write(place.store, "parts", data, self.part_size))
        assert place.raw.get("parts") == data

    @pytest.mark.parametrize("parts", [1, 2])
    def test_write_of_unknown_size(self, place: ObjectPlace, parts: int) -> None:
        """A stream's size is known only with its last part."""
        data = random_bytes(parts * self.part_size - 7)
        run(write(place.store, "stream", data, self.part_size, size=None))
        assert place.raw.get("stream") == data

    def test_put(self, place: ObjectPlace) -> None:
        """`put` stores a small object in one go."""
        stat = run(place.store.put("small", b"bytes"))
        assert (place.raw.get("small"), stat.name, stat.size) == (b"bytes", "small", 5)

    @pytest.mark.parametrize("parts", [1, 2])
    def test_commit_returns_what_the_backend_says(self, place: ObjectPlace, parts: int) -> None:
        """`commit` returns the same properties as a later `stat`."""
        data = random_bytes(parts * self.part_size - 7)
        committed = run(write(place.store, "object", data, self.part_size))
        found = run(place.store.stat("object"))
        assert found is not None
        assert (committed.name, committed.size, committed.etag) == ("object", len(data), found.etag)

    @pytest.mark.parametrize("parts", [1, 3])
    def test_on_progress_counts_every_byte_on_the_loop(self, place: ObjectPlace, parts: int) -> None:
        """`on_progress` is called for every byte, in the loop's thread."""
        counted, threads = [], set()

        def on_progress(count: int) -> None:
            counted.append(count)
            threads.add(threading.get_ident())

        async def scenario() -> int:
            await write(place.store, "counted", data, self.part_size, on_progress=on_progress)
            await asyncio.sleep(0)
            return threading.get_ident()

        data = random_bytes(parts * self.part_size)
        loop_thread = run(scenario())
        assert (threads, sum(counted)) == ({loop_thread}, len(data))

    @pytest.mark.parametrize("parts", [1, 2])
    def test_nothing_is_visible_before_commit(self, place: ObjectPlace, parts: int) -> None:
        """After all parts and before the commit, no reader and no listing sees anything."""

        async def scenario() -> Sequence[object]:
            writer = place.store.writer("unseen", WritePlan(len(data), self.part_size), lambda _: None)
            await write_parts(writer, split(data, self.part_size))
            listed = await list_names(place.store.list())
            seen = [place.raw.get("unseen"), await place.store.stat("unseen"), *listed]
            await writer.abort()
            return seen

        data = random_bytes(parts * self.part_size)
        assert run(scenario()) == [None, None]

    @pytest.mark.parametrize("parts", [1, 2])
    def test_old_object_stays_until_commit(self, place: ObjectPlace, parts: int) -> None:
        """While a replacement is written, readers see the old object; after its commit, the new one."""

        async def scenario() -> bytes | None:
            writer = place.store.writer("replaced", WritePlan(len(new), self.part_size), lambda _: None)
            await write_parts(writer, split(new, self.part_size))
            before = place.raw.get("replaced")
            await writer.commit()
            return before

        new = random_bytes(parts * self.part_size, seed=1)
        place.raw.put("replaced", b"old and longer or shorter")
        assert run(scenario()) == b"old and longer or shorter"
        assert place.raw.get("replaced") == new

    @pytest.mark.parametrize("parts", [1, 2])
    def test_commit_leaves_only_the_object(self, place: ObjectPlace, parts: int) -> None:
        """After a commit there is the object and nothing else."""
        run(write(place.store, "dir/only", random_bytes(parts * self.part_size), self.part_size))
        assert place.raw.all_names() == {"dir/only"}

    def test_many_objects_at_once(self, place: ObjectPlace) -> None:
        """Objects written at the same time, into the same directories, do not disturb each other."""

        async def scenario() -> None:
            await asyncio.gather(*(place.store.put(name, name.encode()) for name in names))

        names = [f"deep/{n % 3}/{n}" for n in range(24)]
        run(scenario())
        assert {name: place.raw.get(name) for name in names} == {name: name.encode() for name in names}

    @pytest.mark.parametrize("parts", [1, 3])
    def test_reread_never_returns_other_bytes(self, place: ObjectPlace, parts: int) -> None:
        """Bytes read again from an unfinished write are the ones written, and unwritten ones are None."""

        async def scenario() -> list[bytes | None]:
            writer = place.store.writer("reread", WritePlan(None, size), lambda _: None)
            unwritten = await writer.reread(0, 10)
            await write_parts(writer, split(data, size))
            ranges = [(0, 10), (len(data) - 5, 5), (size - 3, 6) if parts > 1 else (3, 6), (len(data), 4)]
            again = [await writer.reread(*where) for where in ranges]
            await writer.abort()
            expected = [data[at : at + length] for at, length in ranges[:3]]
            assert all(got in (None, want) for got, want in zip(again[:3], expected, strict=True))
            return [unwritten, again[3]]

        size = self.part_size
        data = random_bytes(parts * size - 100)
        assert run(scenario()) == [None, None]
