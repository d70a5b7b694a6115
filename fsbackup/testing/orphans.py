"""The contract of `ObjectStore.orphans` and `ObjectStore.delete_orphan`."""

from __future__ import annotations

from typing import ClassVar

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import ObjectStore, ObjectWriter, Orphan, WritePlan
from fsbackup.testing.driving import Contract, list_names, random_bytes, split, write_parts
from fsbackup.testing.place import ObjectPlace

#: Seconds, with room for the difference between the server's clock and the local one.
_SOON, _LATER = -60.0, 3600.0


async def _orphans(store: ObjectStore, older_than: float) -> list[Orphan]:
    return [orphan async for orphan in store.orphans(older_than)]


class OrphansContract(Contract):
    """What an interrupted write leaves is found and can be removed; nothing else is touched."""

    #: Whether an unfinished write leaves anything outside this process.
    leaves_orphans: ClassVar[bool] = True

    async def _unfinished(self, store: ObjectStore, name: str) -> ObjectWriter:
        """Write the parts without the last one, and do not commit."""
        writer = store.writer(name, WritePlan(None, self.part_size), lambda _: None)
        await write_parts(writer, split(random_bytes(2 * self.part_size + 1), self.part_size)[:2])
        return writer

    def test_finished_writes_leave_nothing(self, place: ObjectPlace) -> None:
        """Neither a commit nor an abort leaves an orphan, and objects are not orphans."""

        async def scenario() -> list[Orphan]:
            await place.store.put("one", b"x")
            writer = place.store.writer("two", WritePlan(None, self.part_size), lambda _: None)
            await write_parts(writer, split(random_bytes(2 * self.part_size), self.part_size))
            await writer.commit()
            writer = place.store.writer("three", WritePlan(None, self.part_size), lambda _: None)
            await write_parts(writer, split(random_bytes(2 * self.part_size), self.part_size)[:1])
            await writer.abort()
            return await _orphans(place.store, _SOON)

        assert run(scenario()) == []
        assert place.raw.all_names() == {"one", "two"}

    def test_an_interrupted_write_is_found_and_deleted(self, place: ObjectPlace) -> None:
        """An orphan is found when it is old enough, never as an object; deleting it leaves the object."""
        store = place.store

        async def scenario() -> tuple[list[Orphan], list[Orphan], list[str]]:
            await store.put("dir/kept", b"old")
            writer = await self._unfinished(store, "dir/kept")
            young, old = await _orphans(store, _LATER), await _orphans(store, _SOON)
            names = await list_names(store.list())
            for orphan in old * 2:
                await store.delete_orphan(orphan)
            gone.extend(await _orphans(store, _SOON))
            await writer.abort()  # there is nothing left to remove
            return young, old, names

        gone: list[Orphan] = []
        young, old, names = run(scenario())
        assert (young, names) == ([], ["dir/kept"])
        assert len(old) == int(self.leaves_orphans)
        assert all(found.size == 2 * self.part_size and found.description and found.started > 0 for found in old)
        assert gone == []
        assert (place.raw.all_names(), place.raw.get("dir/kept")) == ({"dir/kept"}, b"old")

    def test_only_orphans_are_deleted(self, place: ObjectPlace) -> None:
        """`delete_orphan` never removes an object."""
        place.raw.put("dir/kept", b"x")
        if self.leaves_orphans:
            with pytest.raises(ValueError, match="dir/kept"):
                run(place.store.delete_orphan(Orphan("dir/kept", 0.0, 1, "")))
        assert place.raw.get("dir/kept") == b"x"
