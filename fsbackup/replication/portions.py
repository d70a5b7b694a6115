"""What a walk finds, cut into portions: plain values, so that another process can work on them.

Who walks also knows what only a whole walk can tell: which replicas cannot be listed, and what retention let go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.records import survey
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.versions import newest
from fsbackup.errors import BackendUnavailableError
from fsbackup.record import Manifest
from fsbackup.replication.classify import LONG_AGO, IsExpired, when_stored
from fsbackup.replication.places import Place
from fsbackup.replication.walk import Unreachable, Walk
from fsbackup.sizing import MIB

#: What ends a portion: so many keys, or so many bytes of objects, of which the last may be a large one.
KEYS, BYTES = 100, 256 * MIB

Report = TypeVar("Report", covariant=True)
Heard = TypeVar("Heard", covariant=True)


@dataclass(frozen=True, slots=True)
class Question:
    """One key to work on.

    Parameters
    ----------
    key
        The object.
    stored
        When it was stored by the listings, epoch seconds; None where none says.
    size
        Bytes of its largest copy.
    pending
        When each replica that lists an announcement of it got that, by backend name, in epoch seconds.
    lacking
        The backends that were listed and do not have it.
    """

    key: str
    stored: float | None = None
    size: int = 0
    pending: Mapping[str, float] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Portion:
    """Some keys, and what is known of them.

    Parameters
    ----------
    questions
        The keys.
    away
        Replicas not to ask, by name, and why.
    expired
        Pairs of backend and key: what the backend's own retention let go, if it is not there.
    """

    questions: tuple[Question, ...]
    away: Mapping[str, str] = field(default_factory=dict)
    expired: frozenset[tuple[str, str]] = frozenset()

    def is_expired(self, backend: str, key: str, _stored: float | None) -> bool:
        """Answer as `IsExpired` does."""
        return (backend, key) in self.expired

    async def asked(self) -> AsyncGenerator[tuple[Question, Unreachable], None]:
        """Yield the keys as `questions` does."""
        away = {name: BackendUnavailableError(why) for name, why in self.away.items()}
        for question in self.questions:
            yield question, away


@dataclass(frozen=True, slots=True)
class Part(Generic[Report, Heard]):
    """What came of one portion: the report on it, and all that a hearer would have heard."""

    report: Report
    heard: tuple[Heard, ...]


class Task(Protocol[Report, Heard]):
    """Works on portions; a plain value that can be sent to another process."""

    def __call__(
        self, targets: ReplicaSet, outages: CircuitBreaker, portion: Portion
    ) -> Coroutine[Any, Any, Part[Report, Heard]]: ...


@dataclass(frozen=True, slots=True)
class Work:
    """All that another process needs to know beside the portions; no secret.

    Parameters
    ----------
    path, name
        The configuration file and the replication set in it, which that process opens by itself.
    task
        What to do with each portion.
    places
        What is on each backend, to compare with what that process sees.
    run
        Tells one verification or repair from the next: nothing that was found out about a backend outlives it.
    """

    path: str
    name: str
    task: Task[Any, Any]
    places: tuple[Place, ...]
    run: str


class Spread(Protocol):
    """Has other processes do the work on portions, and yields what comes of each as it comes."""

    def __call__(self, work: Work, portions: Iterator[Portion]) -> Generator[Part[Any, Any], None, None]: ...


async def questions(
    walk: Walk,
    takes: Callable[[str], bool] | None = None,
    pending: dict[str, dict[str, float]] | None = None,
) -> AsyncGenerator[tuple[Question, Unreachable], None]:
    """Yield the keys that `takes` takes (None: all), each with the replicas that cannot be listed.

    `pending` says which replicas list announcements of a key, and since when; it is emptied. Keys of which only
    announcements are left come last.
    """
    announced = pending if pending is not None else {}
    async with aclosing(walk.keys()) as keys:
        async for seen in keys:
            if takes is None or takes(seen.key):
                size = max((each.data.size for each in seen.replicas.values() if each and each.data), default=0)
                lacking = tuple(name for name, each in seen.replicas.items() if each and not each.data)
                pending_here = announced.pop(seen.key, {})
                yield Question(seen.key, seen.stored_at, size, pending_here, lacking), walk.errors
    for key in list(announced):
        yield Question(key, pending=announced.pop(key)), walk.errors


async def portions(
    asked: AsyncGenerator[tuple[Question, Unreachable], None], expired: IsExpired | None, targets: ReplicaSet
) -> AsyncGenerator[Portion, None]:
    """Cut questions into portions; `expired` is asked about every backend."""
    names = [store.name for store in targets.stores]
    some: list[Question] = []
    known: Unreachable = {}
    async with aclosing(asked) as each:
        async for question, away in each:
            if some and (_is_full(some) or away.keys() != known.keys()):
                yield _portion(some, known, expired, names)
                some = []
            some.append(await _dated(question, expired, targets))
            known = away
    if some:
        yield _portion(some, known, expired, names)


async def _dated(question: Question, expired: IsExpired | None, targets: ReplicaSet) -> Question:
    """Return a question with the time that retention judges by.

    Where its age decides whether a backend let it go, its manifest may say that it is older than what is listed:
    a copy that repair put back. Who works on the portion reads the manifest too, but does not know the rules.
    """
    if expired is None or not any(
        expired(name, question.key, LONG_AGO) and not expired(name, question.key, question.stored)
        for name in question.lacking
    ):
        return question
    top = newest(finding.record for finding in await survey(targets.stores, question.key))
    made = top.created_timestamp if isinstance(top, Manifest) else None
    return replace(question, stored=when_stored(question.stored, made))


def _is_full(some: list[Question]) -> bool:
    return len(some) >= KEYS or sum(each.size for each in some) >= BYTES


def _portion(some: list[Question], away: Unreachable, expired: IsExpired | None, names: list[str]) -> Portion:
    let_go = [
        (name, each.key) for each in some for name in names if expired and expired(name, each.key, each.stored)
    ]
    return Portion(tuple(some), {name: str(error) for name, error in away.items()}, frozenset(let_go))
