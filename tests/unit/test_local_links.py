"""Symbolic links below the base: never followed, never written through, never an omission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path

import pytest

from fsbackup.errors import AccessDeniedError
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStore
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing.driving import list_names

OPERATIONS: dict[str, Callable[[ObjectStore, str], Awaitable[object]]] = {
    "stat": lambda store, name: store.stat(name),
    "read": lambda store, name: store.read(name),
    "remove": lambda store, name: store.remove(name),
    "write": lambda store, name: store.put(name, b"new"),
    "create": lambda store, name: store.put(name, b"new", create_only=True),
}

#: What a link below the base may point to, seen from the link.
TARGETS = {
    "outside": "../outside",
    "inside": "inside",
    "nowhere": "../nowhere",
    "itself": "link",
    "the base": ".",
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base with a directory in it and one outside of it, both with a file."""
    for path in (tmp_path / "outside", tmp_path / "base" / "inside"):
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"kept")
    return tmp_path / "base"


def untouched(base: Path) -> bool:
    """Tell whether both directories are as they were."""
    return all(
        [(path.name, path.read_bytes()) for path in where.iterdir()] == [("file", b"kept")]
        for where in (base.parent / "outside", base / "inside")
    )


def refusal(base: Path, operation: str, name: str) -> object:
    """Return what an operation raises, or None."""

    async def scenario() -> None:
        await OPERATIONS[operation](LocalStore(base), name)

    try:
        run(scenario())
    except AccessDeniedError as error:
        return error
    return None


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_operation_follows_a_link(base: Path, target: str) -> None:
    """A link on the way to an object, or in its place, is refused by every operation, with what to do instead."""
    (base / "link").symlink_to(target)
    for case in product(OPERATIONS, ["link", "link/file", "link/new", "link/new/deeper"]):
        error = refusal(base, *case)
        assert isinstance(error, AccessDeniedError), case
        assert "symbolic link" in str(error), case
        assert error.hint is not None, case
        assert error.key == case[1], case
        assert untouched(base), case
        assert (base / "link").is_symlink(), case


@pytest.mark.parametrize("target", ["../outside", "../outside/file", "../nowhere", "/etc"])
def test_listing_refuses_links_that_lead_out(base: Path, target: str) -> None:
    """What such a link hides cannot be listed, so the listing is an error and not an omission."""
    (base / "inside" / "link").symlink_to(f"../{target}" if target.startswith("..") else target)
    with pytest.raises(AccessDeniedError, match="inside/link"):
        run(list_names(LocalStore(base).list()))


@pytest.mark.parametrize("target", ["inside", "inside/file", "no-such", "."])
def test_listing_leaves_out_links_that_stay_in(base: Path, target: str) -> None:
    """What such a link points to has a name of its own in the listing, and needs no second one."""
    (base / "link").symlink_to(target)
    assert run(list_names(LocalStore(base).list())) == ["inside/file"]


@pytest.mark.parametrize(("prefix", "after"), [("inside", ""), ("z", ""), ("", "link0")])
def test_listing_minds_only_the_links_that_it_meets(base: Path, prefix: str, after: str) -> None:
    """A link outside of what is asked for does not stop a listing."""
    (base / "link").symlink_to("../outside")
    expected = ["inside/file"] if prefix == "inside" else []
    assert run(list_names(LocalStore(base).list(prefix, after))) == expected


@pytest.mark.parametrize("prefix", ["link/", "link/f", "link"])
def test_listing_of_a_prefix_that_is_a_link(base: Path, prefix: str) -> None:
    """A prefix that leads through a link is refused too."""
    (base / "link").symlink_to("../outside")
    with pytest.raises(AccessDeniedError, match="link"):
        run(list_names(LocalStore(base).list(prefix)))
