"""One call to the service: retried where that may help, and cut when nothing moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, TypeVar

from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.body import CHUNK, Body, PartProgress
from fsbackup.stores.s3.client import S3Connection
from fsbackup.stores.s3.errors import CallContext, code_of, retry_after, translate
from fsbackup.stores.s3.idle import IdleTimeout

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")
Response = dict[str, Any]

#: Waits grow from 0.1 s twofold, each with up to half a second more: two seconds in all, so that R2's limit of
#: one write per second and key is waited out.
_ATTEMPTS = 5
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 5.0, 0.5
#: Codes that say that the bytes arrived damaged: worth another try, but never merely "unavailable" in the end.
_DAMAGE_CODES = frozenset({"BadDigest", "XAmzContentSHA256Mismatch"})


class Calls:
    """The calls of one store.

    Parameters
    ----------
    name
        The backend's name, for errors.
    connection
        Gives the client.
    timeout
        Longest silence in seconds: no byte moved, over all tries of one call and the waits between them.
    """

    def __init__(self, name: str, connection: S3Connection, timeout: float) -> None:
        self.name = name
        self.connection = connection
        self.timeout = timeout

    async def request(self, context: CallContext, method: str, **params: Any) -> Response:
        """Call one method of the client and return its answer."""

        async def attempt(_: IdleTimeout) -> Response:
            call = await self.connection.method(method)
            response: Response = await call(**params)
            return response

        return await self.run(context, attempt)

    async def send(
        self, context: CallContext, method: str, data: bytes, progress: PartProgress, **params: Any
    ) -> Response:
        """Call a method that takes a body."""

        async def attempt(idle: IdleTimeout) -> Response:
            progress.on_activity = idle.reset
            call = await self.connection.method(method)
            body: Any = Body(data, progress) if len(data) > CHUNK else data
            response: Response = await call(Body=body, **params)
            progress.advance_to(len(data))
            return response

        return await self.run(context, attempt)

    async def run(self, context: CallContext, attempt: Callable[[IdleTimeout], Awaitable[T]]) -> T:
        """Await `once`, again after transient failures, until it has been silent for too long."""
        failures: list[TransientError] = []
        # Making the client takes a while, which is not the service's silence.
        await self._translating_errors(context, self.connection.client)
        try:
            async with IdleTimeout(context.timeout) as idle:
                return await self._with_retries(context, lambda: attempt(idle), failures)
        except TransientError as error:
            if code_of(error) in _DAMAGE_CODES:
                raise _damage_error(context) from error
            raise
        except TimeoutError as error:
            clear_frames(error.__traceback__)
            raise _idle_error(context, failures) from (failures[-1] if failures else error)
        finally:
            failures.clear()  # or they and this frame keep each other, and the part, alive

    async def _with_retries(
        self, context: CallContext, call: Callable[[], Awaitable[T]], failures: list[TransientError]
    ) -> T:
        try:
            return await self._translating_errors(context, call)
        except TransientError as error:
            # Only now: the machinery of retries costs as much as a tenth of a small request.
            first = [error]
            failures.append(error)

        async def again() -> T:
            if first:
                raise first.pop()
            return await self._translating_errors(context, call)

        try:
            return await _retry_policy(context, failures)(again)
        except BaseException as error:
            clear_frames(error.__traceback__)  # the same, inside the machinery
            raise

    async def _translating_errors(self, context: CallContext, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except FsbackupError:
            raise
        except Exception as error:
            # Whoever keeps the error would keep the bytes of a part, and the credentials, that are in its frames.
            clear_frames(error.__traceback__)
            raise translate(error, context, self.connection.secrets) from error


def _retry_policy(context: CallContext, failures: list[TransientError]) -> AsyncRetrying:
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    backoff = wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT) + wait_random(0, _JITTER)

    def wait(state: RetryCallState) -> float:
        asked = retry_after(failures[-1])
        return backoff(state) if asked is None else asked

    def again(error: BaseException) -> bool:
        if not isinstance(error, TransientError):
            return False
        failures[:] = [error]
        # A wait that the service asks for and that is longer than the silence allowed would end in nothing.
        return (retry_after(error) or 0.0) < context.timeout

    def note(state: RetryCallState) -> None:
        log.info("trying again in %.1f s: %s", state.upcoming_sleep, failures[-1])

    return AsyncRetrying(
        stop=stop_after_attempt(_ATTEMPTS),
        retry=retry_if_exception(again),
        wait=wait,
        before_sleep=note,
        reraise=True,
    )


def _idle_error(context: CallContext, failures: list[TransientError]) -> FsbackupError:
    before = f" (before that: {failures[-1].message})" if failures else ""
    made: FsbackupError = context.error(
        BackendUnavailableError,
        f"no byte moved for {context.timeout:g} s{before}",
        "check the network and the provider's status page; a longer timeout helps only with a slow service",
    )
    return made


def _damage_error(context: CallContext) -> FsbackupError:
    made: FsbackupError = context.error(
        IntegrityError,
        "the service received other bytes than were sent, every time",
        "bytes are damaged on the way: check this machine's memory and network",
    )
    return made
