"""Circuit breaker: neither the next object nor the next process waits again for a store that is known to be away.

There is one circuit for each place (`ObjectStore.identity`) in a process, for reads, writes, deletes and listings.
That a store is away is a reason not to wait for it; it is never an answer, and no reason to refuse.

- A call that fails because the store did not answer *opens* the circuit, and so does one that was retried until
  the timeout, or several other transient failures in a row (`record`). Pending calls that have waited for a while
  already are ended: the same outage holds them up.
- While it is open, `call` does not call the store, and raises the error that opened the circuit, with the time
  since when (`away_since`). Instead the store is *probed* in the background, by one request at a time. The first
  caller that finds no probe running starts one; callers within `GRACE` of that start wait until then for its
  answer.
- The first answer *closes* it. Where the next write fails again although the store answers probes, it stays open
  for a while whatever the answers.
- A caller that would have to refuse without the store asks it anyway: ``insist=True``.

Processes that were opened from a configuration leave each other a note in the state directory (`use_note`,
`away_note`). A process begins with what is noted there, if that is not much older than the wait was long; so its
first caller starts a probe, and waits for `GRACE` instead of a whole timeout. A note that is missing or wrong
costs no more.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fsbackup import errors
from fsbackup.engine import away_note, marker
from fsbackup.engine.away_note import NotedOutage
from fsbackup.errors import BackendUnavailableError, FsbackupError, TransientError
from fsbackup.keys import MARKER
from fsbackup.stores.base import ObjectStore, timeout_error

T = TypeVar("T")

#: Seconds after the begin of a probe for which callers wait for its answer: what a healthy service needs at most,
#: but no more than this share of the store's timeout, since the next probe may begin after that.
GRACE, _GRACE_SHARE = 2.0, 0.1
#: Transient failures in a row, each after all retries of the store, that open the circuit.
MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when a store does not answer (UTC), and its last error."""

    since: datetime
    error: FsbackupError


@dataclass(eq=False)
class _Circuit:
    """What is known of one place. The circuit is open while `error` is set.

    `tried` is the time of the last failure in epoch seconds, `seconds` how long that took. `calls` has the
    timeouts of the calls on their way, with the loop's time at which each began; `left` is a question that its
    caller no longer waits for.
    """

    error: TransientError | None = None
    since: datetime | None = None
    tried: float = 0.0
    seconds: float = 0.0
    failures: int = 0
    failed_writes: int = 0
    held_until: float = 0.0
    probe: asyncio.Task[None] | None = None
    probed_at: float = 0.0
    slow_until: float = 0.0
    left: asyncio.Task[Any] | None = None
    left_since: datetime = datetime.min
    calls: dict[asyncio.Timeout, tuple[asyncio.AbstractEventLoop, float]] = field(default_factory=dict)

    def open(self, error: TransientError, seconds: float, *, writing: bool) -> None:
        if self.error is None:
            self.since = datetime.now(UTC)
            self.failed_writes += writing
        self.error, self.tried, self.seconds = error, time.time(), seconds
        if self.failed_writes > 1:
            self.held_until = time.monotonic() + away_note.lifetime(seconds)
        self._end_calls()
        _write_note()

    def _end_calls(self) -> None:
        for limit, (loop, started) in list(self.calls.items()):
            if loop is asyncio.get_running_loop() and not limit.expired():
                limit.reschedule(max(loop.time(), started + GRACE))

    def answered(self, *, writing: bool) -> None:
        self.failures = 0
        if writing:
            self.failed_writes = 0
        elif time.monotonic() < self.held_until:
            return
        if self.error is not None:
            self.error = self.since = None
            _write_note()

    def away(self, store: ObjectStore) -> TransientError | None:
        """Return the error for a caller that does not ask, None while the circuit is closed."""
        if self.error is None or self.since is None:
            return None
        return _since(self.error, store, self.since)

    def noted(self) -> NotedOutage | None:
        if self.error is None or self.since is None:
            return None
        message, hint = self.error.message, self.error.hint or ""
        return NotedOutage(self.since.timestamp(), self.tried, self.seconds, message, hint)

    def has_left(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self.left is not None and not self.left.done() and self.left.get_loop() is loop

    async def answers(self, store: ObjectStore) -> bool:
        """Return whether a store that was away has answered; see the module's docstring."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        probing = self.probe is not None and not self.probe.done() and self.probe.get_loop() is loop
        if not probing and now >= self.held_until:
            self.probe, self.probed_at, probing = loop.create_task(self._probe(store)), now, True
        if probing and self.probe is not None and (rest := self.probed_at + grace(store) - now) > 0:
            await asyncio.wait({self.probe}, timeout=rest)
        return self.error is None

    async def _probe(self, store: ObjectStore) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(store.hard_timeout):
                if await store.stat(MARKER) is None:
                    await marker.check(store, empty=True)
        except (TransientError, TimeoutError):
            self.tried, self.seconds = time.time(), max(self.seconds, time.monotonic() - started)
            _write_note()
        except FsbackupError:  # it says no, so it is there
            self.answered(writing=False)
        else:
            self.answered(writing=False)


_circuits: dict[str, _Circuit] = {}
#: Where the note is, None while no configuration was opened; and those that were read.
_note: Path | None = None
_read: set[Path] = set()


async def call(
    store: ObjectStore,
    make: Callable[[], Awaitable[T]],
    *,
    operation: str,
    key: str,
    insist: bool = False,
) -> T:
    """Make a call to `store`, and record how it went.

    Parameters
    ----------
    make
        Makes the call.
    operation, key
        For the error of a call that does not end within `store.hard_timeout`.
    insist
        Make the call also to a store that is known to be away.

    Raises
    ------
    TransientError
        With `away_since`: the store is known to be away, and was not called, or not waited for to the end.
    FsbackupError
        As the call raised it.
    """
    circuit = _circuit(store)
    if not insist and circuit.error is not None and not await circuit.answers(store):
        raise circuit.away(store) or timeout_error(store, operation, key)
    loop, started = asyncio.get_running_loop(), time.monotonic()
    try:
        async with asyncio.timeout(store.hard_timeout) as limit:
            if not insist:
                circuit.calls[limit] = loop, loop.time()
            try:
                result = await make()
            finally:
                circuit.calls.pop(limit, None)
    except TimeoutError:
        if (away := circuit.away(store)) is not None and not insist:
            raise away from None
        error = timeout_error(store, operation, key)
        record(store, error, time.monotonic() - started)
        raise error from None
    except FsbackupError as error:
        record(store, error, time.monotonic() - started)
        raise
    circuit.answered(writing=False)
    return result


def record(
    store: ObjectStore,
    error: Exception | None,
    seconds: float = 0.0,
    *,
    writing: bool = False,
    listing: bool = False,
) -> None:
    """Record how a call to a store went that was not made by `call`.

    Parameters
    ----------
    error
        Its error, None on success.
    seconds
        How long it took.
    writing
        It was to change something.
    listing
        It was a listing: there are few of them, so the first that fails opens the circuit.
    """
    circuit = _circuit(store)
    if not isinstance(error, TransientError):
        if error is None or isinstance(error, errors.BackendError):
            circuit.answered(writing=writing and error is None)
        return
    if error.away_since is not None:
        return
    circuit.failures += 1
    has_waited = isinstance(error, BackendUnavailableError) or seconds >= store.timeout / 2
    if has_waited or listing or circuit.failures >= MAX_FAILURES:
        # Of a long upload only the last part is a wait.
        circuit.open(error, min(seconds, store.hard_timeout), writing=writing)


def away(store: ObjectStore) -> TransientError | None:
    """Return why a store is known to be away, and since when (`away_since`); or None. Sends nothing."""
    return _circuit(store).away(store)


async def known_away(stores: Iterable[ObjectStore]) -> dict[str, TransientError]:
    """Return the stores that are known to be away and do not answer within `GRACE` either, by name, and why."""
    unsure = [store for store in stores if _circuit(store).error is not None]
    await asyncio.gather(*(_circuit(store).answers(store) for store in unsure))
    return {store.name: error for store in unsure if (error := away(store)) is not None}


def leave(store: ObjectStore, task: asyncio.Task[Any]) -> bool:
    """Let a question to a slow store go on in the background that its caller no longer waits for.

    Its answer, or its failure, is recorded. Until then other readers do not ask that store (`unanswered`), and for
    a while they do not wait for it beyond a quorum. Returns False when there is such a question already, and the
    caller is to cancel this one.
    """
    circuit = _circuit(store)
    circuit.slow_until = time.monotonic() + away_note.LIFETIME
    if circuit.has_left(task.get_loop()):
        return False
    circuit.left, circuit.left_since = task, datetime.now(UTC)
    return True


def unanswered(store: ObjectStore) -> TransientError | None:
    """Return the error of a store that still owes an answer to a reader that went on without it, else None."""
    circuit = _circuit(store)
    if not circuit.has_left(asyncio.get_running_loop()):
        return None
    return _since(straggler_error(store), store, circuit.left_since)


def straggler_error(store: ObjectStore, key: str | None = None) -> BackendUnavailableError:
    """Return the error for a store whose answer its caller no longer waited for."""
    return BackendUnavailableError(
        "did not answer in time; another replica did",
        backend=store.name,
        operation="stat",
        key=key,
        hint=f"check {store.location}",
    )


def _since(error: TransientError, store: ObjectStore, since: datetime) -> TransientError:
    """Return the error as that of a store that is not asked."""
    # What it says of the store holds for every key, not only for the one of the call that failed.
    known = error.of(None, None)
    known.backend, known.away_since = store.name, since
    known.message = f"{known.message} (away since {since.astimezone():%Y-%m-%d %H:%M:%S})"
    return known


def is_worth_waiting(store: ObjectStore) -> bool:
    """Return whether a reader should wait for the answer of a store where the others prove what it reads."""
    circuit = _circuit(store)
    return circuit.error is None and time.monotonic() >= circuit.slow_until


def outage(store: ObjectStore) -> Outage | None:
    """Return since when and why a store is known to be away, None when it is not."""
    circuit = _circuit(store)
    if circuit.error is None or circuit.since is None:
        return None
    return Outage(circuit.since, circuit.error)


def use_note(directory: Path) -> None:
    """Begin with what earlier processes noted in this state directory, and leave a note there."""
    global _note
    _note = directory / away_note.NAME
    if _note in _read:
        return
    _read.add(_note)
    for place, noted in away_note.read(_note).items():
        if place not in _circuits:
            error = BackendUnavailableError(noted.message, hint=noted.hint or None)
            since = datetime.fromtimestamp(noted.since, UTC)
            _circuits[place] = _Circuit(error=error, since=since, tried=noted.tried, seconds=noted.seconds)


def forget() -> None:
    """Forget everything, as a new process knows nothing, and end all probes; the note stays where it is."""
    global _note
    for circuit in _circuits.values():
        for task in (circuit.probe, circuit.left):
            if task is not None and not task.done():
                with suppress(RuntimeError):  # its loop is closed
                    task.get_loop().call_soon_threadsafe(task.cancel)
    _circuits.clear()
    _read.clear()
    _note = None


def grace(store: ObjectStore) -> float:
    """Return the seconds of silence of a store that may be away for which others are kept waiting."""
    return min(GRACE, _GRACE_SHARE * store.timeout)


def _circuit(store: ObjectStore) -> _Circuit:
    place = away_note.place_of(store.identity)
    circuit = _circuits.get(place)
    if circuit is None:
        circuit = _circuits[place] = _Circuit()
    return circuit


def _write_note() -> None:
    if _note is not None:
        away_note.write(_note, {place: circuit.noted() for place, circuit in _circuits.items()})


def _after_fork() -> None:
    """Leave the calls and probes that are on their way to the parent."""
    for circuit in _circuits.values():
        circuit.probe = circuit.left = None
        circuit.calls = {}


os.register_at_fork(after_in_child=_after_fork)
