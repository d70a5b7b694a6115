"""The contract of concurrent readers and writers: the old object or the new one, never a mixture."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.loop import run
from fsbackup.testing.driving import Contract, random_bytes, write
from fsbackup.testing.place import ObjectPlace


class RacingContract(Contract):
    """No torn objects."""

    @pytest.mark.parametrize("sizes", [(3000, 3000), (3000, 70_000), (0, 5000)])
    def test_reader_during_replacement(self, place: ObjectPlace, sizes: tuple[int, int]) -> None:
        """A reader during replacements always gets one complete version."""

        async def scenario() -> set[bytes]:
            writing = asyncio.create_task(self._replace(place, versions))
            seen = set()
            while not writing.done():
                seen.add(await place.store.read("torn"))
            await writing
            return seen

        versions = [random_bytes(size, seed) for seed, size in enumerate(sizes)]
        place.raw.put("torn", versions[0])
        assert run(scenario()) <= set(versions)
        assert place.raw.get("torn") == versions[1]

    async def _replace(self, place: ObjectPlace, versions: list[bytes]) -> None:
        for _ in range(10):
            for data in versions:
                await place.store.put("torn", data)

    def test_stat_during_replacement(self, place: ObjectPlace) -> None:
        """An object exists at all times during its replacement."""

        async def scenario() -> set[int | None]:
            writing = asyncio.create_task(self._replace(place, [b"1", b"22"]))
            sizes: set[int | None] = set()
            while not writing.done():
                found = await place.store.stat("torn")
                sizes.add(found.size if found else None)
            await writing
            return sizes

        place.raw.put("torn", b"1")
        assert run(scenario()) <= {1, 2}

    @pytest.mark.parametrize("parts", [1, 2])
    def test_writers_of_one_name(self, place: ObjectPlace, parts: int) -> None:
        """After concurrent replacements the object is one writer's, complete."""

        async def scenario() -> None:
            await asyncio.gather(*(write(place.store, "contended", data, self.part_size) for data in contents))

        contents = [random_bytes(parts * self.part_size - seed, seed) for seed in range(3)]
        run(scenario())
        assert place.raw.get("contended") in contents
        assert place.raw.all_names() == {"contended"}
