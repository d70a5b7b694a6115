"""One request: attempted until it succeeds, or nothing has moved for the timeout.

`Call.run` runs on the loop; each attempt, `Call._exchange`, runs in a thread, over a `Connection`. Retries happen
only here: with growing waits, until the timeout has passed without progress. Bytes that are sent or received again
are activity but no progress, and so are those that a service sends while it completes an upload or copies; an
error response is neither. Cancelling the call, also after the idle timeout, shuts the socket down, so that the
blocked thread returns at once.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from traceback import clear_frames
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from fsbackup.aio import IdleTimeout
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.errors import (
    AnswerError,
    CallContext,
    answer_error,
    code_of,
    region_of,
    retry_after,
    translate,
)
from fsbackup.threads import Job, heartbeat

if TYPE_CHECKING:
    import socket
    from http.client import HTTPResponse

    from fsbackup.stores.s3.http.bucket import Bucket
    from fsbackup.stores.s3.http.connection import Connection, Signed

T = TypeVar("T")

#: Exponential backoff: the first wait in seconds, the number of doublings (up to 3.2 s), and the random part.
#: Three waits cover R2's limit of one write per second and key.
_FIRST_WAIT, _DOUBLINGS, _JITTER = 0.1, 5, 0.5
#: Codes for bytes that arrived damaged: retried, and raised as `IntegrityError` when every attempt fails.
_DAMAGE_CODES = frozenset({"BadDigest", "XAmzContentSHA256Mismatch"})
#: The start of an error document, perhaps with a namespace.
_ERROR = re.compile(rb"<Error[\s>]")
#: Most bytes that are read of an error response.
_MAX_ERROR = 64 * 1024
#: Most bytes of one progress report, and the least seconds between two that wake the loop.
_STEP, _SECONDS = 512 * 1024, 0.1
#: Seconds for which the bytes of a response that is no object count as activity: completing an upload or copying
#: takes minutes, during which services send white space; a response that never ends is abandoned.
_LONGEST_ANSWER = 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the service; `key` includes the prefix, and is empty for the bucket."""

    method: str
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A successful response: its status, its headers with lower-case names, and its parsed body."""

    status: int
    headers: Mapping[str, str]
    content: T


#: Reads the body of a successful response, in a thread; a connection with an unread rest is not reused.
Receive = Callable[["HTTPResponse"], T]
#: Called on the loop with the number of bytes that have moved.
OnProgress = Callable[[int], None]


class Call(Generic[T]):
    """A request to the service of `bucket`; see `Bucket.send`."""

    def __init__(
        self,
        bucket: Bucket,
        context: CallContext,
        request: Request,
        receive: Receive[T],
        on_progress: OnProgress | None,
    ) -> None:
        self._bucket = bucket
        self._context = context
        self._request = request
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._progress = Progress(on_progress, is_upload=request.method != "GET") if on_progress else None
        #: Last activity, and last progress (a byte beyond all earlier attempts), by the loop's clock.
        self._moved = self._progressed = self._loop.time()
        self._position = self._furthest = 0
        self._is_answered = False
        self._answered_at = 0.0
        self._number = 0
        #: The region of the last attempt: another call may have learned another one since.
        self._signed_for = ""
        self._has_learned_region = False
        self._failure: FsbackupError | None = None
        self._job: Job[Reply[T] | AnswerError] | None = None
        #: What the thread blocks on, under the lock.
        self._socket: socket.socket | None = None
        self._is_cancelled = False
        self._lock = threading.Lock()

    async def run(self) -> Reply[T]:
        """Make the request; retry after transient errors, until the timeout has passed without progress."""
        try:
            with IdleTimeout(self._context.timeout, self._last_activity):
                while True:
                    try:
                        return await self._attempt()
                    except Exception as error:  # noqa: BLE001 - `_wait_after` raises what is not retried
                        wait = self._wait_after(self._translated(error))
                    self._number += 1
                    await asyncio.sleep(wait)
        except TimeoutError as error:
            clear_frames(error.__traceback__)
            raise _idle_error(self._context, self._failure) from (self._failure or error)
        finally:
            self._failure = None  # otherwise it and this frame form a cycle that keeps the part alive
            if self._progress is not None:
                self._progress.close()

    async def _attempt(self) -> Reply[T]:
        """Make the request once; when this is cancelled, the socket of the thread is shut down."""
        self._position, self._is_answered = 0, False
        if self._progress is not None:
            self._progress.begin()
        self._signed_for = self._bucket.signer.region
        signed = self._bucket.sign(self._request)
        self._job = self._bucket.workers.submit(partial(self._exchange, signed))
        try:
            outcome = await self._job.future
        except asyncio.CancelledError:
            self._job.cancel()
            self._shut_down()
            raise
        finally:
            self._job = None
            if self._progress is not None:
                self._progress.flush()
        if isinstance(outcome, AnswerError):
            raise outcome
        return outcome

    def _translated(self, error: Exception) -> FsbackupError:
        if isinstance(error, FsbackupError):
            return error
        # The error's frames hold the bytes of a part and the credentials; a kept error would keep them alive.
        clear_frames(error.__traceback__)
        if isinstance(error, TimeoutError) and error.filename is None:  # not while connecting
            return _idle_error(self._context, self._failure)
        translated = translate(error, self._context, self._bucket.secrets)
        translated.__cause__ = error
        return translated

    def _wait_after(self, error: FsbackupError) -> float:
        """Return the seconds until the next attempt; raise the error when there is none."""
        if not self._has_learned_region and (region := region_of(error, self._signed_for)):
            self._bucket.signer.region, self._has_learned_region = region, True
            return 0.0
        if not isinstance(error, TransientError):
            raise error
        backoff: float = _FIRST_WAIT * 2.0 ** min(self._number, _DOUBLINGS) + random.uniform(0, _JITTER)
        wait = max(backoff, retry_after(error) or 0.0)
        if self._loop.time() + wait >= self._progressed + self._context.timeout:
            raise _damage_error(self._context, error) if code_of(error) in _DAMAGE_CODES else error
        self._failure = error.with_traceback(None)
        log.info("retrying in %.1f s: %s", wait, error)
        return wait

    def _last_activity(self) -> float:
        is_queued = self._job is not None and not self._job.started
        return max(self._moved, self._bucket.workers.last_activity) if is_queued else self._moved

    def _shut_down(self) -> None:
        """End the exchange from the loop: the thread returns with an error."""
        from fsbackup.stores.s3.http.connection import shut_down

        with self._lock:
            self._is_cancelled = True
            if self._socket is not None:
                shut_down(self._socket)

    # The following run in the thread.

    def _exchange(self, signed: Signed) -> Reply[T] | AnswerError:
        """Send the request and read the response; an error response is returned, as raising drops the connection.

        An idle connection that turns out to be dead, without a byte of a response, is replaced once by a new one:
        every request may be repeated, since a tag shows whether a create succeeded (see `writer.commit`).
        """
        from http.client import HTTPException

        if not self._number:
            self._moved = self._progressed = self._loop.time()  # it may have been queued behind others
        http = self._bucket.http
        idle = http.take_idle()
        while True:
            connection = idle or http.connect(self._adopt)
            is_reusable = False
            try:
                self._adopt(connection.socket)
                connection.begin(self._arrived)
                response, is_sent = connection.ask(http.head(signed), signed, self._left)
                outcome = self._read(response)
                connection.finish()
                is_reusable = is_sent and response.isclosed() and not response.will_close
                return outcome
            except (OSError, HTTPException) as error:
                if not self._may_repeat(idle, connection, error):
                    raise
                idle = None
            finally:
                self._adopt(None)
                if is_reusable:
                    http.give_back(connection)
                else:
                    connection.close()

    def _may_repeat(self, idle: Connection | None, connection: Connection, error: Exception) -> bool:
        """Tell whether an idle connection was dead before the request was sent."""
        is_dead = idle is not None and not connection.has_answered
        return is_dead and not self._is_cancelled and not isinstance(error, TimeoutError)

    def _adopt(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._socket = sock
            if self._is_cancelled and sock is not None:
                raise ConnectionAbortedError("the request was cancelled")

    def _read(self, response: HTTPResponse) -> Reply[T] | AnswerError:
        headers = cast("Mapping[str, str]", response.headers)  # names are lower-case
        self._bucket.note_date(headers)
        if not 200 <= response.status < 300:
            return answer_error(response.status, headers, response.read(_MAX_ERROR), self._bucket.secrets)
        self._begin_body(response)
        content = self._receive(response)
        if isinstance(content, bytes) and b"<Error" in content and _ERROR.search(content):
            # CompleteMultipartUpload and others may fail after status 200 was sent: that may be retried.
            return answer_error(500, headers, content, self._bucket.secrets)
        return Reply(response.status, headers, content)

    def _begin_body(self, response: HTTPResponse) -> None:
        """Count the bytes that arrive from now on: heads and error responses are no progress."""
        from fsbackup.stores.s3.http.connection import begin_body

        arrived = begin_body(response)
        self._is_answered, self._answered_at = True, self._loop.time()
        if arrived:
            self._arrived(arrived)

    def _left(self, position: int) -> None:
        self._advance_to(position, heartbeat())

    def _arrived(self, count: int) -> None:
        now = heartbeat()
        if not self._is_answered:
            return
        if self._request.method == "GET":
            self._advance_to(self._position + count, now)
        elif (moved := self._loop.time() if now is None else now) < self._answered_at + _LONGEST_ANSWER:
            self._moved = moved  # activity, but no progress: that is what was sent

    def _advance_to(self, position: int, now: float | None) -> None:
        if position > self._position:
            self._position, self._moved = position, self._loop.time() if now is None else now
        if position > self._furthest:
            self._furthest, self._progressed = position, self._moved
        if self._progress is not None:
            self._progress.advance_to(position)


class Progress:
    """Reports the bytes that a thread moves in a request's attempts, without waking the loop for each."""

    def __init__(self, on_progress: Callable[[int], None], *, is_upload: bool) -> None:
        self._on_progress = on_progress
        self._is_upload = is_upload
        self._loop = asyncio.get_running_loop()
        self._position = self._flushed = self._reported = 0
        self._scheduled_at = 0.0
        self._is_scheduled = False

    def begin(self) -> None:
        """Start an attempt; called on the loop."""
        self._position = self._flushed = 0
        self._scheduled_at = time.monotonic()  # what takes less than `_SECONDS` is reported at its end
        if not self._is_upload:
            self._reported = 0
            self._on_progress(0)

    def advance_to(self, position: int) -> None:
        """Note the number of bytes moved in this attempt; called in the thread."""
        self._position = position
        now = time.monotonic()
        if now - self._scheduled_at >= _SECONDS and not self._is_scheduled:
            self._is_scheduled = True
            self._scheduled_at = now
            self._loop.call_soon_threadsafe(self.flush)

    def flush(self) -> None:
        """Report what has not been reported; called on the loop."""
        self._is_scheduled = False
        position, earlier = self._position, self._flushed
        self._flushed = position
        new = position - self._reported
        if new <= 0 and self._is_upload and position > earlier:
            self._on_progress(0)
        while new > 0:
            step = min(new, _STEP)
            self._reported += step
            new -= step
            self._on_progress(step)

    def close(self) -> None:
        """Stop all reports, also those that a thread has scheduled."""
        self._on_progress = lambda _: None


def _idle_error(context: CallContext, failure: FsbackupError | None) -> FsbackupError:
    before = f" (after: {failure.message})" if failure else ""
    error: FsbackupError = context.error(
        BackendUnavailableError,
        f"no byte moved for {context.timeout:g} s{before}",
        "check the network and the provider's status page; for a slow service raise `timeout`",
    )
    return error


def _damage_error(context: CallContext, failure: FsbackupError) -> FsbackupError:
    error: FsbackupError = context.error(
        IntegrityError,
        "the service received damaged bytes in every attempt",
        "check this machine's memory and network",
    )
    error.__cause__ = failure
    return error
