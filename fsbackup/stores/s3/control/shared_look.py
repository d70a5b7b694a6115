"""The versions of a name, by a listing that many callers share: calls during one are answered by the next.

A batch of new objects asks after each PUT whether another writer came first. The names are close together, so one
request serves all PUTs that ended during the previous one. A single caller costs one request.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from fsbackup.aio import retrieve_error
from fsbackup.stores.s3.control.listing import Version, versions_between, versions_of
from fsbackup.stores.s3.http.bucket import Bucket

#: Other versions per name that a listing may return before the names are asked for one by one.
_LIST_WORTH = 4


class _SharedLook:
    """The names of one bucket that callers on one loop ask for, and that no running listing includes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._asked: dict[str, asyncio.Future[list[Version] | None]] = {}
        self._listing: asyncio.Task[None] | None = None

    async def versions(self, bucket: Bucket, name: str) -> list[Version] | None:
        """Return the versions of a name; None where the listing ended before it: the caller asks for it alone."""
        future = self._asked.get(name)
        if future is None:
            future = self._asked[name] = self.loop.create_future()
            future.add_done_callback(retrieve_error)
        if self._listing is None or self._listing.done():
            self._listing = self.loop.create_task(self._run(bucket))
        return await asyncio.shield(future)

    async def _run(self, bucket: Bucket) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                for name, versions in (await _look(bucket, sorted(asked))).items():
                    asked[name].set_result(versions)
            except Exception as error:  # noqa: BLE001 - a single caller raises it; several ask one by one
                if len(asked) == 1:
                    asked.popitem()[1].set_exception(error)
            finally:
                for future in asked.values():
                    if not future.done():
                        future.set_result(None)


async def _look(bucket: Bucket, names: list[str]) -> dict[str, list[Version]]:
    if len(names) == 1:
        return {names[0]: await versions_of(bucket, names[0])}
    others = _LIST_WORTH * len(names)
    return await versions_between(bucket, names, others, page_size=len(names) + others)


#: By bucket, for the loop that called last.
_looks: WeakKeyDictionary[Bucket, _SharedLook] = WeakKeyDictionary()


async def versions_now(bucket: Bucket, name: str, version: str) -> list[Version]:
    """Return all versions of a name, one of them `version`, newest first, by a listing begun after this call."""
    loop, look = asyncio.get_running_loop(), _looks.get(bucket)
    if look is None or look.loop is not loop:
        look = _looks[bucket] = _SharedLook(loop)
    shared = await look.versions(bucket, name)
    if shared is not None and any(each.id == version for each in shared):
        return shared
    return await versions_of(bucket, name)
