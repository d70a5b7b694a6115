"""The contract of `ObjectStore.read` and `ObjectStore.stat`."""

from __future__ import annotations

import asyncio
import time

import pytest

from fsbackup.buffers import Buffers
from fsbackup.errors import ObjectNotFoundError
from fsbackup.loop import run
from fsbackup.testing.driving import Contract, random_bytes, write
from fsbackup.testing.place import ObjectPlace

_SIZE = 1000
_RANGES = [
    (0, None),
    (0, 1),
    (0, _SIZE - 1),
    (0, _SIZE),
    (0, _SIZE + 1),
    (1, None),
    (1, 2),
    (300, 700),
    (_SIZE - 1, None),
    (_SIZE - 1, _SIZE),
    (_SIZE - 1, 2 * _SIZE),
    (_SIZE, None),
    (_SIZE, _SIZE + 1),
    (5 * _SIZE, None),
    (5 * _SIZE, 6 * _SIZE),
    (0, 0),
    (500, 500),
    (500, 100),
    (5 * _SIZE, _SIZE),
]


class ReadingContract(Contract):
    """Exactly the requested bytes of one version; "not found" only when there is no such object."""

    @pytest.mark.parametrize(("start", "end"), _RANGES)
    def test_read_range(self, place: ObjectPlace, start: int, end: int | None) -> None:
        """A range holds the bytes from start up to end, clipped at the object's end, or nothing."""
        data = random_bytes(_SIZE)
        place.raw.put("ranges", data)
        expected = data[start:] if end is None else data[start : max(start, end)]
        assert run(place.store.read("ranges", start, end)) == expected
        if end is not None:
            for buffers in (None, Buffers()):
                pieces = run(place.store.read_buffers("ranges", start, end, buffers=buffers))
                assert b"".join(pieces) == expected

    @pytest.mark.parametrize("size", [0, 1, _SIZE, _SIZE + 1, 2 * _SIZE])
    def test_stat_and_read(self, place: ObjectPlace, size: int) -> None:
        """What an object is comes with its first bytes."""
        place.raw.put("whole", data := random_bytes(size))
        found = run(place.store.stat_and_read("whole", _SIZE))
        assert found is not None
        assert (found[0], b"".join(found[1])) == (run(place.store.stat("whole")), data[:_SIZE])
        assert run(place.store.stat_and_read("missing", _SIZE)) is None

    @pytest.mark.parametrize(("start", "end"), [(0, None), (0, 1), (0, 0), (7, None), (7, 9)])
    def test_read_of_an_empty_object(self, place: ObjectPlace, start: int, end: int | None) -> None:
        """Any range of an empty object is empty."""
        place.raw.put("empty", b"")
        assert run(place.store.read("empty", start, end)) == b""

    @pytest.mark.parametrize(("start", "end"), [(0, None), (0, 10), (0, 0), (5, 5), (10**9, None)])
    def test_read_of_a_missing_object(self, place: ObjectPlace, start: int, end: int | None) -> None:
        """A missing object raises `ObjectNotFoundError` for every range."""
        place.raw.put("dir/other", b"x")
        with pytest.raises(ObjectNotFoundError) as caught:
            run(place.store.read("dir/missing", start, end))
        assert (caught.value.backend, caught.value.key) == (place.store.name, "dir/missing")

    @pytest.mark.parametrize("name", ["dir", "dir/sub", "dir/sub/object/below", "dir/sub/obj"])
    def test_names_around_an_object_are_absent(self, place: ObjectPlace, name: str) -> None:
        """A directory of an object, a name below it and a prefix of its name are not objects."""
        place.raw.put("dir/sub/object", b"x")
        assert run(place.store.stat(name)) is None
        with pytest.raises(ObjectNotFoundError):
            run(place.store.read(name))

    def test_read_of_an_object_of_several_parts(self, place: ObjectPlace) -> None:
        """Concurrent reads return the right bytes across the parts of an object."""

        async def scenario() -> list[bytes]:
            await write(place.store, "parts", data, size)
            return list(await asyncio.gather(*(place.store.read("parts", *where) for where in ranges)))

        size = self.part_size
        data = random_bytes(2 * size + 100)
        ranges = [(size - 10, size + 10), (0, size), (size, 2 * size), (2 * size - 1, None), (0, None)]
        assert run(scenario()) == [data[start:end] for start, end in ranges]

    @pytest.mark.parametrize("size", [0, 1, 1000])
    def test_stat(self, place: ObjectPlace, size: int) -> None:
        """An object's size is its bytes, and its time, where there is one, is about now."""
        place.raw.put("object", random_bytes(size))
        found = run(place.store.stat("object"))
        assert found is not None
        assert (found.name, found.size) == ("object", size)
        assert found.modified is None or abs(time.time() - found.modified) < 86_400

    def test_stat_of_a_missing_object(self, place: ObjectPlace) -> None:
        """`stat` of a missing object returns None."""
        place.raw.put("object", b"x")
        assert run(place.store.stat("objec")) is None
        assert run(place.store.stat("object2")) is None
        assert run(place.store.stat("no/such/directory")) is None

    def test_stat_sees_changes_of_others(self, place: ObjectPlace) -> None:
        """Nothing is cached: changes by others are seen at once, also after a listing."""

        async def listed() -> list[int]:
            return [item.size async for item in place.store.list()]

        place.raw.put("changing", b"1")
        before = run(listed()), run(place.store.stat("changing"))
        place.raw.put("changing", b"22")
        after = run(place.store.stat("changing"))
        assert before[1] is not None
        assert after is not None
        assert (before[0], before[1].size, after.size, run(place.store.read("changing"))) == ([1], 1, 2, b"22")
        assert run(listed()) == [2]

    def test_store_works_after_close(self, place: ObjectPlace) -> None:
        """`close` releases what is held; the next operation takes it again."""
        run(place.store.put("object", b"x"))
        run(place.store.close())
        run(place.store.close())
        assert run(place.store.read("object")) == b"x"
