"""What an operation works on: the stores of a replication set, its rule, and the memory and spool it may use."""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from fsbackup.errors import FsbackupError, NoHealthyReplicaError, StaleReadWarning, combined_hint, summary
from fsbackup.sizing import MIB
from fsbackup.stores.base import ObjectStore

#: What a read does that is not proven to be of the newest version.
Unproven = Literal["warn", "raise", "allow"]
#: Eight parts of the default size.
DEFAULT_MEMORY = 64 * MIB
#: Seconds without a byte after which a reader fails over to another replica: far more than a healthy service
#: needs, and short enough for a person who waits for the restore.
DEFAULT_STALL = 10.0


@dataclass(frozen=True, slots=True)
class Spool:
    """A directory for the bytes of a stream that a lagging replica still needs, and the most bytes kept there."""

    directory: Path
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The stores of a replication set, and the limits of one operation on it.

    Parameters
    ----------
    stores
        In reading order: reads prefer the first healthy one.
    min_copies
        How many confirmed copies make success.
    part_size
        Bytes per part; None to derive it from the object's size.
    memory
        Bytes of parts that one upload may hold, whatever the file's size and the number of stores.
    spool
        None: a stream is read as slowly as its slowest replica takes it, unless a local replica can be read again.
    stall
        Seconds without a byte after which a reader fails over to another replica.
    unproven
        What a read does when too few replicas answer to prove that it reads the newest version: warn
        (`StaleReadWarning`), raise, or allow it.
    groups
        Names of the stores that reads are spread over, in groups: a later group is read only when no earlier one
        has the version, or can deliver it. None: one group.
    lasting
        Names of the stores whose retention keeps whatever another one's keeps, None: all of them.
    """

    stores: tuple[ObjectStore, ...]
    min_copies: int
    part_size: int | None = None
    memory: int = DEFAULT_MEMORY
    spool: Spool | None = None
    stall: float = DEFAULT_STALL
    unproven: Unproven = "warn"
    lasting: frozenset[str] | None = None
    groups: tuple[frozenset[str], ...] | None = None

    def by_group(self, stores: Iterable[ObjectStore]) -> list[tuple[ObjectStore, ...]]:
        """Return stores in the groups that reads take them from; a group without any of them is left out."""
        all_of_them = tuple(stores)
        if self.groups is None:
            return [all_of_them] if all_of_them else []
        chosen = [tuple(store for store in all_of_them if store.name in group) for group in self.groups]
        return [group for group in chosen if group]

    def is_quorum(self, answered: Collection[str]) -> bool:
        """Tell whether these stores together know of each object that was ever confirmed, and is to be kept.

        A confirmed object is on `min_copies` stores, so that all but ``min_copies - 1`` of them include one that
        has it. Where retention differs, an old object is on the stores only that keep it longest: as many of these
        are needed in proportion, or all stores where no rule covers all others.
        """
        names = {store.name for store in self.stores}
        lasting = names if self.lasting is None else self.lasting
        if not lasting:
            return names <= set(answered)
        return all(
            len(each & set(answered)) > len(each) - min(self.min_copies, len(each)) for each in (names, lasting)
        )

    def report_unproven(self, said: str, errors: Mapping[str, FsbackupError], *, operation: str, key: str) -> None:
        """Warn that too few replicas answered to prove what is returned, or raise, as the set has it.

        Raises
        ------
        NoHealthyReplicaError
            Where the set has `unproven` ``"raise"``.
        """
        said = f"{said}, because too few replicas answered: {summary(errors)}"
        if self.unproven == "raise":
            hint = "try again when more replicas answer, or allow it: `unproven: warn`"
            raise NoHealthyReplicaError(said, operation=operation, key=key, hint=combined_hint(errors, hint))
        if self.unproven == "warn":
            warnings.warn(StaleReadWarning(f"{key}: {said}" if key else said), stacklevel=3)


class MemoryBudget:
    """A semaphore over bytes of memory, shared by concurrent operations and granted in order of request.

    Parameters
    ----------
    total
        Bytes. A request for more is granted as a request for `total`.
    """

    def __init__(self, total: int = DEFAULT_MEMORY) -> None:
        self._total = total
        self._free = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def reserve(self, wanted: int) -> _Reservation:
        """Hold `wanted` bytes while the block runs."""
        return _Reservation(self, min(max(wanted, 1), self._total))

    def release(self, amount: int) -> None:
        """Give bytes back that were acquired."""
        self._free += amount
        if self._queue:
            self._grant()

    async def acquire(self, amount: int) -> None:
        """Wait for so many bytes."""
        if not self._queue and amount <= self._free:
            self._free -= amount
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((amount, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._free += amount
            self._grant()
            raise

    def _grant(self) -> None:
        while self._queue and (self._queue[0][1].cancelled() or self._queue[0][0] <= self._free):
            amount, granted = self._queue.popleft()
            if not granted.cancelled():
                self._free -= amount
                granted.set_result(None)


class _Reservation:
    """Bytes of a budget that are held while a block runs."""

    __slots__ = ("_amount", "_budget")

    def __init__(self, budget: MemoryBudget, amount: int) -> None:
        self._budget = budget
        self._amount = amount

    async def __aenter__(self) -> None:
        await self._budget.acquire(self._amount)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.release(self._amount)
