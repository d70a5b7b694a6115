"""What the tests of the S3 adapter share: stores for a test server, and small ways to drive them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat, Part, WritePlan
from fsbackup.stores.s3.providers import B2, GENERIC, R2, Profile
from fsbackup.stores.s3.store import S3Store
from tests.servers.endpoint import S3Endpoint

T = TypeVar("T")
MIB = 1 << 20
#: The smallest part that R2 and B2 take.
PART = 5 * MIB
#: Long enough for every server on a busy machine.
PATIENT = 60.0
PROFILES = {"strict-r2": R2, "strict-b2": B2}


def connect(endpoint: S3Endpoint, *, profile: Profile | None = None, **options: Any) -> S3Store:
    """Return a store for a server's bucket, with the provider's profile where the server plays one."""
    settings = {
        "bucket": endpoint.bucket,
        "endpoint_url": endpoint.endpoint_url,
        "region": endpoint.region,
        "access_key_id": endpoint.access_key_id,
        "secret_access_key": endpoint.secret_access_key,
        "ca_bundle": str(endpoint.ca_bundle) if endpoint.ca_bundle else None,
        "timeout": PATIENT,
        "profile": profile or PROFILES.get(endpoint.name, GENERIC),
        **options,
    }
    return S3Store(endpoint.name, **settings)


def cut(data: bytes, size: int = PART) -> list[Part]:
    """Return the parts of some bytes."""
    starts = range(0, max(len(data), 1), size)
    return [
        Part(number, at, data[at : at + size], last=at + size >= len(data)) for number, at in enumerate(starts, 1)
    ]


async def write(
    store: S3Store, name: str, parts: Sequence[Part], on_progress: Callable[[int], None] | None = None, **plan: Any
) -> ObjectStat:
    """Write an object with all its parts at once, and abort it when that fails."""
    writer = store.writer(name, WritePlan(None, **plan), on_progress or (lambda _: None))
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(writer.write(part))
        return await writer.commit()
    except BaseException:
        await writer.abort()
        raise


def upload(store: S3Store, name: str, data: bytes, **options: Any) -> ObjectStat:
    """Write an object, in parts of 5 MiB, and return what is said of it."""
    try:
        return run(write(store, name, cut(data), **options))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def names(store: S3Store, prefix: str = "", start_after: str = "") -> list[str]:
    """Return the names that a listing gives."""

    async def collect() -> list[str]:
        return [found.name async for found in store.list(prefix, start_after)]

    return run(collect())


def outcome(work: Coroutine[Any, Any, T]) -> T | BaseException:
    """Return what some work returns or raises."""
    try:
        return run(work)
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        return error
