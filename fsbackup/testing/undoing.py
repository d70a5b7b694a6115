"""The contract of `ObjectWriter.rollback`: what a commit replaced is there again, or nothing has changed."""

from __future__ import annotations

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat, ObjectWriter, WritePlan
from fsbackup.testing.driving import Contract, random_bytes, split, write_parts
from fsbackup.testing.place import ObjectPlace

NAME = "dir/undone"


class UndoingContract(Contract):
    """A store keeps what a commit replaces where it can, and says whether it has."""

    @pytest.mark.parametrize("parts", [1, 2])
    def test_rollback_shows_what_was_there(self, place: ObjectPlace, parts: int) -> None:
        """With its properties, where that was promised; else what was stored stays. No temp file is left."""

        async def scenario() -> tuple[ObjectStat, bool, ObjectStat | None]:
            before = await place.store.put(NAME, old)
            writer = await self._replaced(place, before, new)
            can = await writer.can_roll_back()
            await writer.rollback()
            now = await place.store.stat(NAME)
            await writer.release()
            return before, can, now

        old, new = b"what was there", random_bytes(parts * self.part_size, seed=1)
        before, can, now = run(scenario())
        assert place.raw.get(NAME) == (old if can else new)
        assert now is not None
        assert not can or (now.size, now.etag, now.version_id) == (before.size, before.etag, before.version_id)
        assert place.raw.all_names() == {NAME}
        assert can == place.store.capabilities.keeps_replaced

    def test_rollback_leaves_what_another_writer_stored(self, place: ObjectPlace) -> None:
        """It came after the commit."""

        async def scenario() -> bool:
            writer = await self._replaced(place, await place.store.put(NAME, b"old"), b"new")
            await place.store.put(NAME, b"another one")
            can = await writer.can_roll_back()
            await writer.rollback()
            await writer.release()
            return can

        assert not run(scenario())
        assert place.raw.get(NAME) == b"another one"
        assert place.raw.all_names() == {NAME}

    def test_release_lets_go(self, place: ObjectPlace) -> None:
        """There is nothing but the new object."""

        async def scenario() -> None:
            writer = await self._replaced(place, await place.store.put(NAME, b"old"), b"new")
            await writer.release()

        run(scenario())
        assert place.raw.get(NAME) == b"new"
        assert place.raw.all_names() == {NAME}

    async def _replaced(self, place: ObjectPlace, before: ObjectStat, data: bytes) -> ObjectWriter:
        """Replace the object, and return the writer that may put it back."""
        plan = WritePlan(
            len(data),
            self.part_size,
            replaces=before.etag,
            replaces_version=before.version_id,
            keep_replaced=True,
        )
        writer = place.store.writer(before.name, plan, lambda _: None)
        await write_parts(writer, split(data, self.part_size))
        await writer.commit()
        return writer
