"""One call to the service: retried where that may help, and cut when nothing moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fsbackup.backends.s3.body import CHUNK, Body, Progress
from fsbackup.backends.s3.client import Connection
from fsbackup.backends.s3.errors import Where, code_of, retry_after, translate
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, TransientError

T = TypeVar("T")
Answer = dict[str, Any]

_ATTEMPTS = 5
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
#: Codes that say that the bytes arrived damaged: worth another try, but never merely "unavailable" in the end.
_DAMAGED = frozenset({"BadDigest", "XAmzContentSHA256Mismatch"})


class Calls:
    """The calls of one store.

    Parameters
    ----------
    name
        The backend's name, for errors.
    connection
        Gives the client.
    timeout
        Longest silence in seconds: no byte moved and no answer, over all tries of one call and the waits between.
    """

    def __init__(self, name: str, connection: Connection, timeout: float) -> None:
        self.name = name
        self.connection = connection
        self.timeout = timeout

    async def request(self, where: Where, method: str, **params: Any) -> Answer:
        """Call one method of the client and return its answer."""

        async def once(_: asyncio.Timeout) -> Answer:
            client = await self.connection.client()
            answer: Answer = await getattr(client, method)(**params)
            return answer

        return await self.run(where, once)

    async def send(self, where: Where, method: str, data: bytes, progress: Progress, **params: Any) -> Answer:
        """Call a method that takes a body."""

        async def once(watch: asyncio.Timeout) -> Answer:
            progress.alive = lambda: self.moved(watch)
            client = await self.connection.client()
            body: Any = Body(data, progress) if len(data) > CHUNK else data
            answer: Answer = await getattr(client, method)(Body=body, **params)
            progress.at(len(data))
            return answer

        return await self.run(where, once)

    async def run(self, where: Where, once: Callable[[asyncio.Timeout], Awaitable[T]]) -> T:
        """Await `once`, again after transient failures, until it has been silent for too long."""
        last: list[Exception] = []
        try:
            async with asyncio.timeout(where.timeout) as watch:
                return await self._retried(where, lambda: once(watch), last)
        except TransientError as error:
            if code_of(error) in _DAMAGED:
                raise _damaged(where) from error
            raise
        except TimeoutError as error:
            raise _silent(where, last) from (last[-1] if last else error)

    async def _retried(self, where: Where, once: Callable[[], Awaitable[T]], last: list[Exception]) -> T:
        from stamina import retry_context

        def again(error: Exception) -> bool | float:
            last[:] = [error]
            return _wait_for(error, where.timeout)

        async for attempt in retry_context(
            again, attempts=_ATTEMPTS, timeout=None, wait_initial=_FIRST_WAIT, wait_max=_LONGEST_WAIT
        ):
            with attempt:
                return await self._translated(where, once)
        raise AssertionError("a retry context ends with a result or an error")

    async def _translated(self, where: Where, once: Callable[[], Awaitable[T]]) -> T:
        try:
            return await once()
        except Exception as error:
            raise translate(error, where, self.connection.secrets) from error

    def moved(self, watch: asyncio.Timeout) -> None:
        """Note that a byte moved: the call may be silent for `timeout` seconds from now."""
        watch.reschedule(asyncio.get_running_loop().time() + self.timeout)


def _silent(where: Where, last: list[Exception]) -> FsbackupError:
    before = f", after: {last[-1].message}" if last and isinstance(last[-1], FsbackupError) else ""
    made: FsbackupError = where.error(
        BackendUnavailableError,
        f"no byte moved for {where.timeout:g} s{before}",
        "check the network and the provider's status page; a longer timeout helps only a slow service",
    )
    return made


def _wait_for(error: Exception, silence: float) -> bool | float:
    """Tell whether to try again; a number is the wait that the service itself asks for, in seconds."""
    if not isinstance(error, TransientError):
        return False
    asked = retry_after(error)
    return True if asked is None else asked if asked < silence else False


def _damaged(where: Where) -> FsbackupError:
    made: FsbackupError = where.error(
        IntegrityError,
        "the service received other bytes than were sent, every time",
        "bytes are damaged on the way: check this machine's memory and network",
    )
    return made
