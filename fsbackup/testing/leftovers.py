"""The contract of `ObjectStore.leftovers` and `ObjectStore.discard`."""

from __future__ import annotations

from typing import ClassVar

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import ObjectStore, ObjectWriter, Orphan, WritePlan
from fsbackup.testing.driving import Contract, collect, cut, feed, noise
from fsbackup.testing.place import ObjectPlace

#: Seconds; a server's clock and ours may be some apart.
_SOON, _LATER = -60.0, 3600.0


async def _found(store: ObjectStore, older_than: float) -> list[Orphan]:
    return [leftover async for leftover in store.leftovers(older_than)]


class LeftoversContract(Contract):
    """What a write leaves that never ends is found, and can be removed; nothing else is touched."""

    #: Whether a write that is going on leaves anything outside of this process.
    leaves: ClassVar[bool] = True

    async def _unfinished(self, store: ObjectStore, name: str) -> ObjectWriter:
        """Write as far as the commit and no further."""
        writer = store.writer(name, WritePlan(None, self.part_size), lambda _: None)
        await feed(writer, cut(noise(2 * self.part_size + 1), self.part_size)[:2])
        return writer

    def test_finished_writes_leave_nothing(self, place: ObjectPlace) -> None:
        """Neither a commit nor an abort leaves anything to find, and objects are no leftovers."""

        async def scenario() -> list[Orphan]:
            await place.store.put("one", b"x")
            writer = place.store.writer("two", WritePlan(None, self.part_size), lambda _: None)
            await feed(writer, cut(noise(2 * self.part_size), self.part_size))
            await writer.commit()
            writer = place.store.writer("three", WritePlan(None, self.part_size), lambda _: None)
            await feed(writer, cut(noise(2 * self.part_size), self.part_size)[:1])
            await writer.abort()
            return await _found(place.store, _SOON)

        assert run(scenario()) == []
        assert place.door.remains() == {"one", "two"}

    def test_what_never_ended_is_found_and_discarded(self, place: ObjectPlace) -> None:
        """It is found when it is old enough, never as an object, and goes without touching what is there."""
        store = place.store

        async def scenario() -> tuple[list[Orphan], list[Orphan], list[str]]:
            await store.put("dir/kept", b"old")
            writer = await self._unfinished(store, "dir/kept")
            young, old = await _found(store, _LATER), await _found(store, _SOON)
            names = await collect(store.list())
            for leftover in old * 2:
                await store.discard(leftover)
            gone.extend(await _found(store, _SOON))
            await writer.abort()  # by then there is nothing left to throw away
            return young, old, names

        gone: list[Orphan] = []
        young, old, names = run(scenario())
        assert (young, names) == ([], ["dir/kept"])
        assert len(old) == int(self.leaves)
        assert all(found.size == 2 * self.part_size and found.what and found.started > 0 for found in old)
        assert gone == []
        assert (place.door.remains(), place.door.get("dir/kept")) == ({"dir/kept"}, b"old")

    def test_only_leftovers_are_discarded(self, place: ObjectPlace) -> None:
        """An object is never removed in this way."""
        place.door.put("dir/kept", b"x")
        if self.leaves:
            with pytest.raises(ValueError, match="dir/kept"):
                run(place.store.discard(Orphan("dir/kept", 0.0, 1, "")))
        assert place.door.get("dir/kept") == b"x"
