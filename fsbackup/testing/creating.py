"""The contract of `WritePlan.create_only`."""

from __future__ import annotations

import asyncio

import pytest

from fsbackup.errors import ConflictError
from fsbackup.loop import run
from fsbackup.testing.driving import Contract, random_bytes, write
from fsbackup.testing.place import ObjectPlace


class CreatingContract(Contract):
    """Creating never replaces."""

    @pytest.mark.parametrize("parts", [0, 1, 2])
    def test_create_only_of_a_new_name(self, place: ObjectPlace, parts: int) -> None:
        """A create-only write of a new name stores the object."""
        data = random_bytes(parts * self.part_size)
        run(write(place.store, "created", data, self.part_size, create_only=True))
        assert place.raw.get("created") == data

    @pytest.mark.parametrize("parts", [0, 1, 2])
    def test_create_only_never_replaces(self, place: ObjectPlace, parts: int) -> None:
        """A create-only write of an existing name raises `ConflictError`, and the object stays."""
        place.raw.put("taken", b"first")
        with pytest.raises(ConflictError) as caught:
            run(
                write(place.store, "taken", random_bytes(parts * self.part_size), self.part_size, create_only=True)
            )
        assert (caught.value.backend, caught.value.key) == (place.store.name, "taken")
        assert (place.raw.all_names(), place.raw.get("taken")) == ({"taken"}, b"first")

    def test_put_create_only(self, place: ObjectPlace) -> None:
        """`put` can create, once."""
        run(place.store.put("once", b"first", create_only=True))
        with pytest.raises(ConflictError):
            run(place.store.put("once", b"second", create_only=True))
        assert place.raw.get("once") == b"first"

    @pytest.mark.parametrize("parts", [1, 2])
    def test_create_only_after_a_remove(self, place: ObjectPlace, parts: int) -> None:
        """A name that was removed is free again."""
        place.raw.put("again", b"first")
        run(place.store.remove("again"))
        data = random_bytes(parts * self.part_size)
        run(write(place.store, "again", data, self.part_size, create_only=True))
        assert place.raw.get("again") == data

    @pytest.mark.parametrize("parts", [1, 2])
    def test_create_only_has_one_winner(self, place: ObjectPlace, parts: int) -> None:
        """Of concurrent create-only writers, one succeeds if the store has `conditional_create`.

        Otherwise the object is still one writer's, complete.
        """

        async def scenario() -> list[object]:
            tasks = [write(place.store, "raced", data, self.part_size, create_only=True) for data in contents]
            return list(await asyncio.gather(*tasks, return_exceptions=True))

        contents = [random_bytes(parts * self.part_size, seed) for seed in range(4)]
        results = run(scenario())
        losers = [result for result in results if isinstance(result, BaseException)]
        winners = [data for data, result in zip(contents, results, strict=True) if result not in losers]
        assert {type(error) for error in losers} <= {ConflictError}
        assert len(winners) == 1 or not place.store.capabilities.conditional_create
        assert place.raw.get("raced") in winners
        assert place.raw.all_names() == {"raced"}
