"""The contract of `ObjectStore.list`."""

from __future__ import annotations

import pytest

from fsbackup.keys import INTENTS, MANIFESTS, META_PREFIX, TOMBSTONES
from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.testing.driving import Contract, list_names, random_bytes, split
from fsbackup.testing.place import ObjectPlace

# "." sorts before "/", and "0" after it: walking directories in the order of their own names gets these wrong.
_TREE = ["a!", "a.b", "a.b/c", "a/b", "a/b.c/d", "a/b0", "a/bc/d", "a0", "a0/x", "b/a/c", "b/b", "é/ü", "z"]
_NESTED = ["a", "a/b/c"]


class ListingContract(Contract):
    """A listing is complete, in the order of the names' bytes, each name once."""

    @pytest.fixture
    def tree(self, place: ObjectPlace) -> list[str]:
        """Return the sorted names of a tree that is there."""
        clash_free = [name for name in _TREE if self.nested_names or name not in ("a.b", "a0", "a/b")]
        names = clash_free + (_NESTED if self.nested_names else ["a/b/c"])
        for name in names:
            place.raw.put(name, name.encode())
        return sorted(names, key=str.encode)

    def test_list_of_an_empty_place(self, place: ObjectPlace) -> None:
        """Empty storage has an empty listing."""
        assert run(list_names(place.store.list())) == []
        assert run(list_names(place.store.list("no/such/prefix", "zzz"))) == []

    def test_list_is_in_byte_order(self, place: ObjectPlace, tree: list[str]) -> None:
        """Names are listed in the order of their UTF-8 bytes, each once."""
        assert run(list_names(place.store.list())) == tree

    def test_list_says_sizes(self, place: ObjectPlace, tree: list[str]) -> None:
        """A listing says each object's size."""

        async def scenario() -> dict[str, int]:
            return {item.name: item.size async for item in place.store.list()}

        assert run(scenario()) == {name: len(name.encode()) for name in tree}

    @pytest.mark.parametrize(
        "after", ["", "a", "a!", "a.", "a.b/c", "a/", "a/b", "a/bc", "a/bc/d", "a0", "b/", "é", "~"]
    )
    def test_list_starts_after(self, place: ObjectPlace, tree: list[str], after: str) -> None:
        """A listing starts after a name, whether there is such an object or not."""
        expected = [name for name in tree if name.encode() > after.encode()]
        assert run(list_names(place.store.list(start_after=after))) == expected

    @pytest.mark.parametrize(
        "prefix", ["a", "a/", "a/b", "a/bc", "a/bc/", "a.", "b", "b/a/c", "b/a/c/", "é", "x", "x/y"]
    )
    def test_list_of_a_prefix(self, place: ObjectPlace, tree: list[str], prefix: str) -> None:
        """A prefix is the text that names start with, not a directory."""
        expected = [name for name in tree if name.startswith(prefix)]
        assert run(list_names(place.store.list(prefix))) == expected

    @pytest.mark.parametrize(
        ("prefix", "after"), [("a/", "a/b"), ("a", "a.b/c"), ("a/b", "a/b0"), ("b", "a"), ("a", "z")]
    )
    def test_list_of_a_prefix_starts_after(
        self, place: ObjectPlace, tree: list[str], prefix: str, after: str
    ) -> None:
        """Both limits hold together."""
        expected = [name for name in tree if name.startswith(prefix) and name.encode() > after.encode()]
        assert run(list_names(place.store.list(prefix, after))) == expected

    @pytest.mark.parametrize("prefix", ["", "a/", "b/", "b/a/", "none/"])
    def test_list_of_a_level(self, place: ObjectPlace, tree: list[str], prefix: str) -> None:
        """Objects directly below a prefix, and each next segment of the others once, in byte order."""
        below = [name.removeprefix(prefix).partition("/") for name in tree if name.startswith(prefix)]
        expected = sorted({f"{prefix}{head}{slash}" for head, slash, _ in below}, key=str.encode)
        sizes = {name: len(name.encode()) for name in tree}

        async def scenario(limit: int | None) -> list[tuple[str, int]]:
            return [(item.name, item.size) async for item in place.store.list_level(prefix, limit)]

        assert run(scenario(None)) == [(name, 0 if name.endswith("/") else sizes[name]) for name in expected]
        if expected:
            assert 0 < len(beginning := run(scenario(2))) <= 2
            assert set(beginning) <= set(run(scenario(None)))
        else:
            assert run(scenario(2)) == []

    def test_list_of_many_pages(self, place: ObjectPlace) -> None:
        """More objects than one page holds: none is lost or doubled where pages meet."""
        names = sorted(f"pages/{n % 4}/{n:05}" for n in range(self.many_objects))
        for name in names:
            place.raw.put(name, b"x")
        middle = names[len(names) // 2]
        assert run(list_names(place.store.list())) == names
        assert run(list_names(place.store.list("pages/", middle))) == names[len(names) // 2 + 1 :]
        level = sorted({name.rpartition("/")[0] + "/" for name in names})
        assert run(list_names(place.store.list_level("pages/"))) == level
        assert run(list_names(place.store.list_level("pages/1/"))) == [each for each in names if "/1/" in each]

    def test_list_that_is_left_early(self, place: ObjectPlace, tree: list[str]) -> None:
        """A listing may be left before its end."""

        async def first() -> str | None:
            async for item in place.store.list():
                return item.name
            return None

        assert run(first()) == tree[0]
        assert run(list_names(place.store.list())) == tree

    def test_list_hides_our_own_records(self, place: ObjectPlace) -> None:
        """Records below the reserved prefix are listed only when `prefix` starts with it."""
        records = [f"{META_PREFIX}format", f"{MANIFESTS}a/b.json", f"{MANIFESTS}z.json", f"{TOMBSTONES}a/b"]
        objects = [".fsbackuq/x", "a/.fsbackups/x", "a/b", "z"]
        for name in records + objects:
            place.raw.put(name, b"x")
        assert run(list_names(place.store.list())) == objects
        assert run(list_names(place.store.list_level())) == [".fsbackuq/", "a/", "z"]
        assert run(list_names(place.store.list_level(limit=1))) == [".fsbackuq/"]
        assert run(list_names(place.store.list(META_PREFIX.removesuffix("/")))) == records
        assert run(list_names(place.store.list(META_PREFIX))) == records
        assert run(list_names(place.store.list(MANIFESTS))) == records[1:3]
        assert run(list_names(place.store.list(MANIFESTS, f"{MANIFESTS}a/b.json"))) == records[2:3]
        assert run(list_names(place.store.list(TOMBSTONES))) == records[3:]

    def test_list_has_what_was_stored_just_now(self, place: ObjectPlace) -> None:
        """Who announces a write sees at once who else has, and who has ended (`fsbackup.engine.intents`)."""
        own, others, another = (f"{INTENTS}{each}" for each in ("0a-1", "0a-2-done", "0b-1"))

        async def scenario() -> list[list[str]]:
            for name in (own, others, another):
                await place.store.put(name, b"x")
            announced = await list_names(place.store.list(f"{INTENTS}0a-"))
            await place.store.remove(own)
            return [announced, await list_names(place.store.list(f"{INTENTS}0a-"))]

        assert run(scenario()) == [[own, others], [others]]

    def test_list_hides_unfinished_writes(self, place: ObjectPlace) -> None:
        """Neither an unfinished object nor its temp file is listed."""

        async def scenario() -> list[str]:
            writer = place.store.writer("dir/unfinished", WritePlan(None, self.part_size), lambda _: None)
            first: Part = split(random_bytes(2 * self.part_size), self.part_size)[0]
            await writer.write(first)
            names = await list_names(place.store.list())
            await writer.abort()
            return names

        place.raw.put("dir/finished", b"x")
        assert run(scenario()) == ["dir/finished"]
