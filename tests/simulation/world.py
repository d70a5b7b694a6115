"""The simulated world: the steps that wait, and which of them comes next.

A step is one request's effect with its answer: what happens between an effect and its answer could as well happen
after the answer, before the process sends its next request. Only a crash and a lost answer tell the two apart, and
both are simulated as such.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from fsbackup.errors import BackendUnavailableError
from tests.simulation.loop import Clock

T = TypeVar("T")

Mode = Literal["uniform", "lanes", "processes", "bursts"]

#: Seconds of a timer that may end while steps wait.
_SHORT_TIMER = 3.0
#: Steps after which a run counts as endless.
_MAX_STEPS = 4000
#: Steps after which a lock that is held is asked for only while nobody wants anything else: an order may go on and
#: on with those who ask for it, and never with who would release it.
_FAIR_AFTER = 1000


class EndlessError(AssertionError):
    """The processes neither end nor get on."""


@dataclass(eq=False)
class Process:
    """One process: its name, and when it ends by a crash.

    `crash_at` counts its own steps; `after_effect` says that this step still has its effect.
    """

    name: str
    crash_at: int | None = None
    after_effect: bool = False
    dead: bool = False
    steps: int = 0
    sent: int = 0
    task: asyncio.Task[Any] | None = None
    killed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Request:
    """One request that waits for its turn."""

    process: Process
    store: str
    verb: str
    name: str
    effect: Callable[[], Any]
    writes: bool
    number: int
    future: asyncio.Future[Any]

    @property
    def lane(self) -> tuple[str, str]:
        return self.process.name, self.store

    @property
    def lock(self) -> tuple[str, str]:
        return self.store, self.name


@dataclass(frozen=True)
class Event:
    """What one step was, for people and for the comparison of two runs."""

    step: int
    process: str
    store: str
    verb: str
    name: str
    note: str

    def __str__(self) -> str:
        return f"{self.step:4} {self.process:10} {self.store:2} {self.verb:7} {self.name:45} {self.note}"


class Observer(Protocol):
    """Looks at the stores after each step."""

    def after(self, request: Request, result: object, error: Exception | None) -> None: ...


@dataclass
class Schedule:
    """Picks the next step.

    ``"uniform"``: any; ``"lanes"`` and ``"processes"``: the one of the highest priority, which changes at
    `changes` steps (probabilistic concurrency testing); ``"bursts"``: the same process for some steps.
    """

    mode: Mode
    random: random.Random
    changes: frozenset[int]
    #: The probability that a short timer ends although steps wait.
    jump: float
    _priorities: dict[object, float] = field(default_factory=dict)
    _burst: tuple[str, int] = ("", 0)

    def pick(self, step: int, waiting: list[Request], timer: float | None) -> Request | None:
        """Return the request whose turn it is; None to let the next timer end."""
        if timer is not None and timer <= _SHORT_TIMER and self.random.random() < self.jump:
            return None
        if self.mode == "uniform":
            return self.random.choice(waiting)
        if self.mode == "bursts":
            return self._in_bursts(waiting)
        key = self._key(self._first(waiting))
        if step in self.changes:
            self._priorities[key] = -float(step)
            key = self._key(self._first(waiting))
        return self.random.choice([each for each in waiting if self._key(each) == key])

    def _key(self, request: Request) -> object:
        return request.lane if self.mode == "lanes" else request.process.name

    def _first(self, waiting: list[Request]) -> Request:
        for each in waiting:
            self._priorities.setdefault(self._key(each), self.random.random())
        return max(waiting, key=lambda each: self._priorities[self._key(each)])

    def _in_bursts(self, waiting: list[Request]) -> Request:
        name, left = self._burst
        own = [each for each in waiting if each.process.name == name]
        if not left or not own:
            name, left = self.random.choice(waiting).process.name, self.random.choice((1, 2, 4, 9, 25))
            own = [each for each in waiting if each.process.name == name]
        self._burst = name, left - 1
        return self.random.choice(own)


@dataclass
class Faults:
    """Requests that fail: how many at most, and how likely each is to."""

    random: random.Random
    left: int = 0
    rate: float = 0.0

    def next(self, request: Request) -> Literal["refused", "lost"] | None:
        """Return how the request fails, None if it does not."""
        if not self.left or self.random.random() >= self.rate:
            return None
        self.left -= 1
        return self.random.choice(("refused", "lost")) if request.writes else "refused"


class World:
    """Runs the steps of all processes, one after the other.

    Attributes
    ----------
    step
        The number of the last step.
    events
        All steps so far.
    observer
        Is called after each step.
    """

    def __init__(self, clock: Clock, numbers: random.Random) -> None:
        self.clock = clock
        self.random = numbers
        self.schedule: Schedule | None = None
        self.faults = Faults(numbers)
        self.tick = 0.001
        self.step = 0
        self.serial = 0
        self.events: list[Event] = []
        self.observer: Observer | None = None
        self.killed: Callable[[Process], None] = lambda _: None
        self._waiting: list[Request] = []
        self._locks: dict[tuple[str, str], Process] = {}

    def lock(self, what: tuple[str, str], process: Process) -> bool:
        """Lock something for a process; return False while another one that lives holds the lock."""
        if self._is_held(what, process):
            return False
        self._locks[what] = process
        return True

    def unlock(self, what: tuple[str, str], process: Process) -> None:
        """Release a lock that the process holds."""
        if self._locks.get(what) is process:
            del self._locks[what]

    def next_serial(self) -> int:
        """Return a number that no other stored object has."""
        self.serial += 1
        return self.serial

    async def request(
        self, process: Process, store: str, verb: str, name: str, effect: Callable[[], T], *, writes: bool = False
    ) -> T:
        """Wait for the request's turn, and return the result of its effect."""
        if process.dead:
            raise asyncio.CancelledError
        process.sent += 1
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = Request(process, store, verb, name, effect, writes, process.sent, future)
        self._waiting.append(request)
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon(request)
            raise

    def _abandon(self, request: Request) -> None:
        """Forget a request for which nobody waits; one that writes may be on its way, and come late."""
        late = request.writes and not request.process.dead and self.random.random() < 0.5
        if request in self._waiting and not late:
            self._waiting.remove(request)

    def idle(self, timeout: float | None) -> None:
        """Do the next step, or let time pass to the next timer."""
        if self.step > _MAX_STEPS:
            raise EndlessError(f"not ended after {_MAX_STEPS} steps")
        if not self._waiting:
            if timeout is None:
                raise EndlessError("nothing can happen any more")
            self.clock.advance(timeout)
            return
        self._waiting.sort(key=lambda each: (each.process.name, each.number))
        ready = self._waiting
        if self.step > _FAIR_AFTER:
            ready = [
                each for each in ready if each.verb != "lock" or not self._is_held(each.lock, each.process)
            ] or ready
        chosen: Request | None = ready[0]
        if self.schedule is not None:
            chosen = self.schedule.pick(self.step, ready, timeout)
        if chosen is None:
            self.clock.advance(timeout or 0.0)
        else:
            self._waiting.remove(chosen)
            self._perform(chosen)

    def _is_held(self, what: tuple[str, str], process: Process) -> bool:
        holder = self._locks.get(what)
        return holder is not None and holder is not process and not holder.dead

    def _perform(self, request: Request) -> None:
        process = request.process
        process.steps += 1
        crashes = process.steps == process.crash_at
        if crashes and not process.after_effect:
            self.kill(process, request)
            return
        self.step += 1
        self.clock.advance(self.tick)
        fault = None if crashes else self.faults.next(request)
        result, error = (None, None) if fault == "refused" else _run(request.effect)
        self._record(request, result, error, fault)
        if self.observer is not None and fault != "refused":
            self.observer.after(request, result, error)
        if crashes:
            self.kill(process, request)
        elif not request.future.done():
            _answer(request, result, _failure(request, fault) if fault else error)

    def _record(self, request: Request, result: object, error: Exception | None, fault: str | None) -> None:
        note = type(error).__name__ if error is not None else str(getattr(result, "note", "") or "")
        note = f"{note} ({fault})" if fault else note
        self.events.append(Event(self.step, request.process.name, request.store, request.verb, request.name, note))

    def kill(self, process: Process, current: Request) -> None:
        """Crash a process: no request of it has an effect any more, and nothing of it waits for one."""
        self.events.append(Event(self.step, process.name, "", "CRASH", "", ""))
        process.dead = True
        process.killed.set()
        dropped = [current, *(each for each in self._waiting if each.process is process)]
        self._waiting = [each for each in self._waiting if each.process is not process]
        self.killed(process)
        if process.task is not None:
            process.task.cancel()
        for each in dropped:
            each.future.cancel()


def _run(effect: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return effect(), None
    except Exception as error:  # noqa: BLE001 - it is the answer
        return None, error


def _answer(request: Request, result: object, error: Exception | None) -> None:
    if error is None:
        request.future.set_result(result)
    else:
        request.future.set_exception(error)


def _failure(request: Request, fault: str) -> Exception:
    return BackendUnavailableError(f"{fault} by the simulation", backend=request.store, key=request.name)
