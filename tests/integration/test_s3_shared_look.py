"""Creators on a service that keeps versions share the listings that tell who came first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from fsbackup.errors import AccessDeniedError, ConflictError
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect, cut, write
from tests.servers import s3
from tests.servers.faults import FaultProxy, Hold, Status, fault_proxy

#: New names, and one that is taken already, between them.
NEW, TAKEN = [f"new/{number:02}" for number in range(12)], "new/05-taken"


@pytest.fixture
def b2(strict_b2: s3.StrictEndpoint) -> s3.StrictEndpoint:
    """The strict B2, empty but for the name that is taken, and never busy."""
    strict_b2.control.reset()
    strict_b2.control.configure(unavailable_every=0)
    s3.put_bytes(strict_b2, TAKEN, b"first")
    return strict_b2


@pytest.fixture
def proxy(b2: s3.StrictEndpoint) -> Iterator[FaultProxy]:
    """A proxy before it."""
    with fault_proxy(b2) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    made = connect(proxy.endpoint)
    yield made
    run(made.close())


async def create(store: S3Store, name: str) -> ObjectStat:
    """Create an object of which a listing has said that it is not there."""
    return await write(store, name, cut(b"new"), create_only=True, ask_first=False, is_new=True)


def create_together(store: S3Store, proxy: FaultProxy, b2: s3.StrictEndpoint) -> list[ObjectStat | BaseException]:
    """Create all names; the first look is held until all are stored."""
    gate, before = proxy.add(Hold(), on="list_versions"), len(s3.list_versions(b2))

    async def together() -> list[ObjectStat | BaseException]:
        tasks = [asyncio.create_task(create(store, name)) for name in [*NEW, TAKEN]]
        deadline = time.monotonic() + 30
        while await asyncio.to_thread(lambda: len(s3.list_versions(b2))) < before + len(tasks):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        gate.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return run(together())


def assert_right(b2: s3.StrictEndpoint, outcomes: list[ObjectStat | BaseException]) -> None:
    """Each new object is there, and whoever came second has taken back his own."""
    *created, refused = outcomes
    assert [each.name for each in created if isinstance(each, ObjectStat)] == NEW
    assert isinstance(refused, ConflictError)
    assert s3.read_bytes(b2, TAKEN) == b"first"
    assert [each.key for each in s3.list_versions(b2)].count(TAKEN) == 1


def test_one_listing_answers_all_that_were_stored_meanwhile(
    store: S3Store, proxy: FaultProxy, b2: s3.StrictEndpoint
) -> None:
    assert_right(b2, create_together(store, proxy, b2))
    # One alone, one for all others; the answer of a PUT may have come after the release.
    assert 2 <= proxy.count("list_versions") <= 5


def test_names_that_are_far_apart_are_looked_at_one_by_one(
    store: S3Store, proxy: FaultProxy, b2: s3.StrictEndpoint
) -> None:
    for number in range(70):
        s3.put_bytes(b2, f"new/04-{number:02}", b"other")
    assert_right(b2, create_together(store, proxy, b2))


def test_a_look_that_is_refused_is_each_callers_own(store: S3Store, proxy: FaultProxy) -> None:
    """A key that may write and not list stores all the same, as one object after another does."""
    proxy.add(Status(403, "AccessDenied"), on="list_versions")

    async def together() -> list[ObjectStat]:
        return list(await asyncio.gather(*(create(store, name) for name in NEW)))

    assert [each.name for each in run(together())] == NEW
    with pytest.raises(AccessDeniedError):
        run(store.remove(TAKEN))
