"""One request to the service: retried after transient failures, ended when no byte moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, TypeVar

from fsbackup.aio import IdleTimeout
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.body import CHUNK, Body, PartProgress
from fsbackup.stores.s3.client import S3Connection
from fsbackup.stores.s3.errors import CallContext, code_of, retry_after, translate

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

T = TypeVar("T")
Response = dict[str, Any]

#: Exponential back-off from 0.1 s with up to 0.5 s of jitter: two seconds in all, which covers R2's limit of one
#: write per second and key.
_ATTEMPTS = 5
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 5.0, 0.5
#: Codes for bytes that arrived damaged: retried, and raised as `IntegrityError` when every attempt fails.
_DAMAGE_CODES = frozenset({"BadDigest", "XAmzContentSHA256Mismatch"})


class Calls:
    """The requests of one store.

    Parameters
    ----------
    name
        The backend's name, for errors.
    connection
        Provides the client.
    timeout
        Longest time in seconds without a byte moved, over all attempts of one request and the waits between them.
    """

    def __init__(self, name: str, connection: S3Connection, timeout: float) -> None:
        self.name = name
        self.connection = connection
        self.timeout = timeout

    async def request(self, context: CallContext, method: str, **params: Any) -> Response:
        """Call one method of the client and return its response."""

        async def attempt(_: IdleTimeout) -> Response:
            call = await self.connection.method(method)
            response: Response = await call(**params)
            return response

        return await self.run(context, attempt)

    async def send(
        self, context: CallContext, method: str, data: bytes, progress: PartProgress, **params: Any
    ) -> Response:
        """Call a method of the client with a body and return its response."""

        async def attempt(idle: IdleTimeout) -> Response:
            progress.on_activity = idle.touch
            call = await self.connection.method(method)
            body: Any = Body(data, progress) if len(data) > CHUNK else data
            response: Response = await call(Body=body, **params)
            progress.advance_to(len(data))
            return response

        return await self.run(context, attempt)

    async def run(self, context: CallContext, attempt: Callable[[IdleTimeout], Awaitable[T]]) -> T:
        """Await `attempt`, again after transient failures, until no byte has moved for the context's timeout."""
        failures: list[TransientError] = []
        # Creating the client takes time in which the service cannot answer.
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
            failures.clear()  # otherwise they and this frame form a cycle that keeps the part alive

    async def _with_retries(
        self, context: CallContext, call: Callable[[], Awaitable[T]], failures: list[TransientError]
    ) -> T:
        try:
            return await self._translating_errors(context, call)
        except TransientError as error:
            # Only now, because tenacity costs a tenth of a small request.
            first = [error]
            failures.append(error)

        async def again() -> T:
            if first:
                raise first.pop()
            return await self._translating_errors(context, call)

        try:
            return await _retry_policy(context, failures)(again)
        except BaseException as error:
            clear_frames(error.__traceback__)  # as in _translating_errors, for tenacity's frames
            raise

    async def _translating_errors(self, context: CallContext, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except FsbackupError:
            raise
        except Exception as error:
            # The error's frames hold the bytes of a part and the credentials; a kept error would keep them alive.
            clear_frames(error.__traceback__)
            raise translate(error, context, self.connection.secrets) from error


def _retry_policy(context: CallContext, failures: list[TransientError]) -> AsyncRetrying:
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    backoff = wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT) + wait_random(0, _JITTER)

    def wait(state: RetryCallState) -> float:
        requested = retry_after(failures[-1])
        return backoff(state) if requested is None else requested

    def again(error: BaseException) -> bool:
        if not isinstance(error, TransientError):
            return False
        failures[:] = [error]
        # A Retry-After longer than the timeout would only end in the timeout.
        return (retry_after(error) or 0.0) < context.timeout

    def log_retry(state: RetryCallState) -> None:
        log.info("retrying in %.1f s: %s", state.upcoming_sleep, failures[-1])

    return AsyncRetrying(
        stop=stop_after_attempt(_ATTEMPTS),
        retry=retry_if_exception(again),
        wait=wait,
        before_sleep=log_retry,
        reraise=True,
    )


def _idle_error(context: CallContext, failures: list[TransientError]) -> FsbackupError:
    before = f" (after: {failures[-1].message})" if failures else ""
    error: FsbackupError = context.error(
        BackendUnavailableError,
        f"no byte moved for {context.timeout:g} s{before}",
        "check the network and the provider's status page; for a slow service raise `timeout`",
    )
    return error


def _damage_error(context: CallContext) -> FsbackupError:
    error: FsbackupError = context.error(
        IntegrityError,
        "the service received damaged bytes in every attempt",
        "check this machine's memory and network",
    )
    return error
