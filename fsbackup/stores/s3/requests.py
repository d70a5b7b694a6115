"""The requests of one store: each attempted until it succeeds, or nothing has moved for the timeout.

`Calls.send` makes a request of the data plane: every attempt is one `Exchange` (see `http`) in a thread.
`Calls.request` makes one of the control plane, through the boto client. Both planes are retried here and nowhere
else: with growing waits, until the timeout has passed without progress. A byte that is sent or received again is
no progress, but no silence either; an answer that is an error is neither.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fsbackup import __version__
from fsbackup.aio import IdleTimeout
from fsbackup.errors import BackendUnavailableError, FsbackupError, IntegrityError, TransientError
from fsbackup.events import log
from fsbackup.stores.s3.control import Control
from fsbackup.stores.s3.errors import (
    AnswerError,
    CallContext,
    answer_error,
    code_of,
    region_of,
    retry_after,
    translate,
)
from fsbackup.stores.s3.settings import Address, Settings, Signer, encode_query
from fsbackup.threads import Job, Workers

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from fsbackup.stores.s3.http import Exchange, Http

T = TypeVar("T")

USER_AGENT = f"fsbackup/{__version__}"
#: Requests at once per store, each with a thread and a connection; more wait, which counts towards the timeout.
_THREADS = 64
#: Seconds of waits: the first, which doubles each time, but not more often than this (3.2 s), and the random part.
#: Three waits cover R2's limit of one write per second and key.
_FIRST_WAIT, _DOUBLINGS, _JITTER = 0.1, 5, 0.5
#: Codes for bytes that arrived damaged: retried, and raised as `IntegrityError` when every attempt fails.
_DAMAGE_CODES = frozenset({"BadDigest", "XAmzContentSHA256Mismatch"})
#: Most bytes of a response that is neither an object nor a page of a listing, and of an error that are read.
MAX_BODY, _MAX_ERROR = 1 << 20, 64 * 1024
#: Most bytes of one report of progress, and the least bytes or seconds between two that wake the loop.
_STEP, _BYTES, _SECONDS = 512 * 1024, 1024 * 1024, 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask of the service; `key` is the whole one, empty for the bucket."""

    method: str
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """A response of success: its status, its headers with lower-case names, and what was made of its body."""

    status: int
    headers: Mapping[str, str]
    content: T


#: Reads the body of a successful response, in a thread.
Receive = Callable[["HTTPResponse"], T]
#: Called on the loop with the number of bytes that have moved.
OnProgress = Callable[[int], None]


class Calls:
    """The requests of one store.

    Parameters
    ----------
    name
        The backend's name, for errors.
    settings
        Endpoint, credentials and timeout: the longest time in seconds without progress, over all attempts of one
        request and the waits between them.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.timeout = settings.timeout
        #: Seconds by which this machine's clock is ahead of the service's, as its last answer dated itself.
        self.clock_skew: float | None = None
        self.control = Control(settings, USER_AGENT)
        self.workers = Workers(f"s3-{name}", _THREADS)
        self.signer = Signer(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region
        )
        self._address = Address(settings)
        self._settings = settings

    @cached_property
    def http(self) -> Http:
        """The connections; created by the first request, which imports the library."""
        from fsbackup.stores.s3.http import Http

        return Http(self._address, self.timeout, self._settings.ca_bundle)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        proxy = self.http.proxy if "http" in vars(self) else None
        return self._settings.secrets + (proxy.secrets if proxy else ())

    async def send(
        self, context: CallContext, request: Request, receive: Receive[T], on_progress: OnProgress | None = None
    ) -> Reply[T]:
        """Make a request of the data plane and return the response.

        Parameters
        ----------
        context
            What the request is for, and its timeout.
        request
            The request.
        receive
            Reads the body of a response of success, as `read_small` does.
        on_progress
            Hears of the bytes that move: of those of a body that is sent once, however often it is sent, and 0
            while it is sent again; of those of a response in each attempt, which begins with 0.
        """
        progress = None if on_progress is None else Progress(on_progress, is_upload=request.method != "GET")
        try:
            return await _Exchanges(self, context, request, receive, progress).run()
        finally:
            if progress is not None:
                progress.close()

    def prepare(
        self, request: Request, receive: Receive[T], on_sent: OnProgress, on_received: OnProgress
    ) -> Exchange[T]:
        """Sign a request, and return the exchange for a thread to run."""
        from fsbackup.stores.s3 import connection, http

        path, query = self._address.path(request.key), encode_query(request.query)
        headers = self.signer.sign(request.method, self._address.netloc, path, query, request.headers)
        headers["User-Agent"] = USER_AGENT
        signed = connection.Request(request.method, f"{path}?{query}" if query else path, headers, request.body)
        return http.Exchange(self.http, signed, receive, on_sent, on_received)

    async def request(self, context: CallContext, method: str, **params: Any) -> dict[str, Any]:
        """Make a request of the control plane: call one method of the boto client and return its response."""
        # Creating the client takes time in which the service cannot answer.
        await self.control.client()
        return await _ClientCalls(self, context, method, params).run()

    def note_date(self, headers: Mapping[str, str]) -> None:
        """Compare the clocks, unless the answer comes out of a cache on the way (RFC 9111, section 5.1)."""
        if (said := headers.get("date")) and "age" not in headers:
            with suppress(ValueError):
                self.clock_skew = time.time() - parsedate_to_datetime(said).timestamp()

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if "http" in vars(self):
            self.http.close()
        await self.control.close()


class _Attempts(ABC, Generic[T]):
    """The attempts of one request, and when its bytes last moved."""

    def __init__(self, calls: Calls, context: CallContext) -> None:
        self._calls = calls
        self._context = context
        self._loop = asyncio.get_running_loop()
        #: When a byte moved, and when one moved that had not moved in an earlier attempt, by the loop's clock.
        self._moved = self._progressed = self._loop.time()
        self._number = 0
        self._has_learned_region = False
        self._failure: FsbackupError | None = None

    @abstractmethod
    async def _attempt(self) -> T:
        """Make the request once."""

    async def run(self) -> T:
        """Make the request, again after transient failures, until the timeout has passed without progress."""
        try:
            async with IdleTimeout(self._context.timeout, self._last_activity):
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

    def _translated(self, error: Exception) -> FsbackupError:
        if isinstance(error, FsbackupError):
            return error
        # The error's frames hold the bytes of a part and the credentials; a kept error would keep them alive.
        clear_frames(error.__traceback__)
        if isinstance(error, TimeoutError) and error.filename is None:  # not while connecting
            return _idle_error(self._context, self._failure)
        translated = translate(error, self._context, self._calls.secrets)
        translated.__cause__ = error
        return translated

    def _wait_after(self, error: FsbackupError) -> float:
        """Return the seconds until the next attempt; raise the error when there is none."""
        if (region := region_of(error)) and not self._has_learned_region:
            self._calls.signer.region, self._has_learned_region = region, True
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
        return self._moved


class _ClientCalls(_Attempts[dict[str, Any]]):
    """A request of the control plane."""

    def __init__(self, calls: Calls, context: CallContext, method: str, params: dict[str, Any]) -> None:
        super().__init__(calls, context)
        self._method = method
        self._params = params

    async def _attempt(self) -> dict[str, Any]:
        client = await self._calls.control.client()
        response: dict[str, Any] = await getattr(client, self._method)(**self._params)
        return response


class _Exchanges(_Attempts[Reply[T]]):
    """A request of the data plane, made in a thread."""

    def __init__(
        self, calls: Calls, context: CallContext, request: Request, receive: Receive[T], progress: Progress | None
    ) -> None:
        super().__init__(calls, context)
        self._request = request
        self._receive = receive
        self._progress = progress
        self._job: Job[Reply[T] | AnswerError] | None = None
        self._position = self._furthest = 0
        self._is_answered = False

    async def _attempt(self) -> Reply[T]:
        """Make the request once; when this is cancelled, the socket of the thread is shut down."""
        self._position, self._is_answered = 0, False
        if self._progress is not None:
            self._progress.begin()
        exchange = self._calls.prepare(self._request, self._read, self._advance_to, self._received)
        self._job = self._calls.workers.submit(partial(self._run, exchange))
        try:
            outcome = await self._job.future
        except asyncio.CancelledError:
            self._job.cancel()
            exchange.cancel()
            raise
        finally:
            self._job = None
            if self._progress is not None:
                self._progress.flush()
        if isinstance(outcome, AnswerError):
            raise outcome
        return outcome

    # The following run in the thread.

    def _run(self, exchange: Exchange[Reply[T] | AnswerError]) -> Reply[T] | AnswerError:
        if not self._number:
            self._moved = self._progressed = self._loop.time()  # it may have been queued behind others
        return exchange.run()

    def _read(self, response: HTTPResponse) -> Reply[T] | AnswerError:
        """Read a response; an error is returned, since one that is raised would cost the connection."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._calls.note_date(headers)
        if response.status >= 300:
            return answer_error(response.status, headers, response.read(_MAX_ERROR), self._calls.secrets)
        self._begin_body(response)
        content = self._receive(response)
        if isinstance(content, bytes) and b"<Error>" in content:
            # CompleteMultipartUpload and others may fail after the status was sent: it may be retried.
            return answer_error(500, headers, content, self._calls.secrets)
        return Reply(response.status, headers, content)

    def _begin_body(self, response: HTTPResponse) -> None:
        """Count what arrives from now on: no head, no error and nothing said of an upload is progress."""
        if self._request.method == "GET":
            from fsbackup.stores.s3.connection import begin_body

            arrived = begin_body(response)
            self._is_answered = True
            self._advance_to(self._position + arrived)

    def _received(self, count: int) -> None:
        if self._is_answered:
            self._advance_to(self._position + count)

    def _advance_to(self, position: int) -> None:
        if position > self._position:
            self._position, self._moved = position, self._loop.time()
        if position > self._furthest:
            self._furthest, self._progressed = position, self._moved
        if self._progress is not None:
            self._progress.advance_to(position)

    def _last_activity(self) -> float:
        is_queued = self._job is not None and not self._job.started
        return max(self._moved, self._calls.workers.last_activity) if is_queued else self._moved


class Progress:
    """Reports to the loop the bytes that a thread moves in a request's attempts, without waking it for each."""

    def __init__(self, on_progress: Callable[[int], None], *, is_upload: bool) -> None:
        self._on_progress = on_progress
        self._is_upload = is_upload
        self._loop = asyncio.get_running_loop()
        self._position = self._flushed = self._reported = 0
        self._scheduled_at, self._scheduled_position = 0.0, 0
        self._is_scheduled = False

    def begin(self) -> None:
        """Start an attempt; called on the loop."""
        self._position = self._flushed = self._scheduled_position = 0
        if not self._is_upload:
            self._reported = 0
            self._on_progress(0)

    def advance_to(self, position: int) -> None:
        """Note the number of bytes moved in this attempt; called in the thread."""
        self._position = position
        now = time.monotonic()
        is_due = position - self._scheduled_position >= _BYTES or now - self._scheduled_at >= _SECONDS
        if is_due and not self._is_scheduled:
            self._is_scheduled = True
            self._scheduled_at, self._scheduled_position = now, position
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
        """Report nothing any more, also not what a thread has scheduled."""
        self._on_progress = lambda _: None


def read_small(response: HTTPResponse, limit: int = MAX_BODY) -> bytes:
    """Return a whole body.

    Raises
    ------
    ValueError
        When it has more than `limit` bytes.
    ConnectionError
        When it ends before its Content-Length.
    """
    announced = response.length
    body = response.read(limit + 1)
    while response.chunked and len(body) <= limit and (more := response.read(limit + 1 - len(body))):
        body += more
    if len(body) > limit:
        raise ValueError(f"the response has more than {limit} bytes")
    if announced is not None and len(body) < announced:
        raise ConnectionError(f"the connection was closed after {len(body)} of {announced} bytes")
    return body


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
