"""The contract of `ObjectStore.remove`."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat
from fsbackup.testing.driving import Contract, list_names
from fsbackup.testing.place import ObjectPlace


class RemovingContract(Contract):
    """One object, exactly, and no other."""

    def test_remove(self, place: ObjectPlace) -> None:
        """A removed object is neither found nor listed."""
        place.raw.put("dir/removed", b"x")
        run(place.store.remove("dir/removed"))
        assert place.raw.names() == set()
        assert run(place.store.stat("dir/removed")) is None
        assert run(list_names(place.store.list())) == []

    def test_remove_of_a_missing_object(self, place: ObjectPlace) -> None:
        """Removing a missing object succeeds, also repeatedly, and removes nothing else."""
        place.raw.put("dir/object", b"x")
        for name in ("dir/missing", "missing", "no/such/directory/object", "dir/object/below"):
            run(place.store.remove(name))
            run(place.store.remove(name))
        assert place.raw.names() == {"dir/object"}

    @pytest.mark.parametrize("name", ["dir", "dir/sub"])
    def test_remove_is_never_recursive(self, place: ObjectPlace, name: str) -> None:
        """Removing a directory's name removes no object below it."""
        place.raw.put("dir/sub/object", b"x")
        run(place.store.remove(name))
        assert place.raw.names() == {"dir/sub/object"}

    def test_remove_takes_no_longer_names(self, place: ObjectPlace) -> None:
        """Longer names that begin with the removed one stay."""
        stay = {"dir/object.gz", "dir/objects", "dir/object0"}
        for name in (*stay, "dir/object"):
            place.raw.put(name, b"x")
        run(place.store.remove("dir/object"))
        assert place.raw.names() == stay

    def test_remove_with_objects_below(self, place: ObjectPlace) -> None:
        """Where an object can have others below its name, removing it leaves them."""
        names = {"a", "a/b", "a/b/c"} if self.nested_names else {"a", "b/c"}
        for name in names:
            place.raw.put(name, b"x")
        run(place.store.remove("a"))
        assert place.raw.names() == names - {"a"}

    def test_remove_many(self, place: ObjectPlace) -> None:
        """Each named object goes and no other one, also a missing one, and one that a stat describes."""
        gone = [f"dir/{number:02}" for number in range(12)] + ["dir/sp ace", "dir/&amp;<x>", "dir/é€"]
        stay = {"dir/00.gz", "dir/0", "dir/05/x" if self.nested_names else "dir/5/x", "ea/00", "dir0"}
        for name in (*gone, *stay):
            place.raw.put(name, b"x")

        async def scenario() -> list[object]:
            stats = [await place.store.stat(name) for name in gone[3:]]
            removals: list[ObjectStat | str] = [
                *gone[:3],
                "dir/missing",
                *(each for each in stats if each is not None),
            ]
            return list(await place.store.remove_many(removals))

        assert run(scenario()) == [None] * (len(gone) + 1)
        assert place.raw.names() == stay

    def test_remove_many_of_nothing(self, place: ObjectPlace) -> None:
        """No object is no work."""
        assert list(run(place.store.remove_many([]))) == []

    def test_remove_and_write_race(self, place: ObjectPlace) -> None:
        """Removing the last object of a directory never makes a concurrent write into it fail."""

        async def scenario() -> None:
            for turn in range(20):
                await place.store.put("shared/dir/old", b"x")
                await asyncio.gather(
                    place.store.remove("shared/dir/old"),
                    place.store.put(f"shared/dir/new{turn}", b"y"),
                    place.store.put(f"shared/{turn}/new", b"z"),
                )
                await place.store.remove(f"shared/dir/new{turn}")
                await place.store.remove(f"shared/{turn}/new")

        run(scenario())
        assert place.raw.names() == set()
