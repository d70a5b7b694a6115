"""The marker of a backend, `.fsbackup/backend`: tells the right backend that is empty from a wrong one.

An unmounted disk, an emptied bucket and a mistyped one all answer "no such object" as a new backend does. Such
an answer must not prove that an object is absent, and nothing must be stored there. So every backend has a marker
with a random id. A backend is *in use* when it has a marker that is not *filling*, or holds any object or record.

In a replication set (`join`), a replica that has neither marker, object nor record is

- *refused* with `WrongBackendError` when another replica of the set is in use, or does not answer, so that nobody
  can tell. It is treated as unreachable by every operation, until `accept_empty`;
- new, when all others answer that they are not in use either: so is the set.

A backend used alone has nobody to be compared with and is never refused.

When the question is asked
--------------------------
An answer that shows an object or a record (`check` with ``empty=False``) says that the backend is in use, and
costs nothing. Without one, the first empty answer of a process, and its first write, read the marker: one GET per
backend and process (alone: only the write). Where there is no marker, two LISTs find out whether anything else is
there; where nothing is, the others of the set are looked at. What was found is remembered as long as the store's
object lives, except a refusal: the disk may be mounted meanwhile.

How markers are made
--------------------
`prepare` runs before the data of an upload is committed:

1. Alone, or holding objects: one create-only write; whoever comes second reads the marker of the first.
2. In a new set, before any data: (a) a *filling* marker on every replica, create-only; (b) when all have one, each
   is written again without ``filling``.

A crash between the writes of (a) leaves replicas with and without a marker, and none in use: the next writer
makes the rest. A crash in (b) leaves a marker on every replica, so none is refused. A reader that saw no marker
here, and then another replica in use, reads the marker here again: it was made before the other replica got to
(b). A replica on which (a) fails is refused once the others have objects, as is one that is added to a set later.

A *filling* marker is also what `accept_empty` writes. Such a replica takes writes and is read, but what it lacks
does not prove an absence (`doubts`). `finish` makes the marker complete after a repair of the whole set.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fsbackup import __version__
from fsbackup.aio import cancel_and_wait
from fsbackup.errors import (
    AccessDeniedError,
    ConfigError,
    ConflictError,
    FsbackupError,
    ObjectNotFoundError,
    WrongBackendError,
)
from fsbackup.keys import INTENTS, MANIFESTS, MARKER, META_PREFIX, RECORDS
from fsbackup.stores.base import ObjectStore, timeout_error

T = TypeVar("T")

log = logging.getLogger("fsbackup.storage")

#: The highest format of a marker that this version writes again.
_FORMAT = 1
#: Seconds that the first write of a set waits for the markers of the other replicas.
_STRAGGLER_TIMEOUT = 2.0
#: What is said of a backend whose marker is *filling*.
NOT_FILLED = "it was accepted empty and has not been filled completely: what it lacks proves nothing"
#: What begins like this is part of a backup; the rest below `.fsbackup/` is there also on a wrong disk.
_RECORD_PREFIXES = (MANIFESTS, RECORDS, INTENTS)


def join(stores: Iterable[ObjectStore]) -> None:
    """Have the stores checked, from now on also against each other."""
    guards = [_attach(store) for store in stores]
    for guard in guards:
        guard.peers = tuple(dict.fromkeys([*guard.peers, *(each for each in guards if each is not guard)]))


async def check(store: ObjectStore, *, empty: bool) -> None:
    """Take note of an answer of `store`: whether it showed nothing at all (`empty`), or an object or a record.

    Raises
    ------
    WrongBackendError
        When the answer is empty and must not count; its `cause` is set if only another replica could tell.
    BackendError
        When the store does not answer what is asked about its marker.
    """
    guard = _guard(store)
    if guard is None:
        return
    if empty:
        await guard.require()
    else:
        guard.in_use = True


async def prepare(store: ObjectStore) -> None:
    """Make sure that `store` may be written to and has a marker; called before data is committed.

    Raises
    ------
    WrongBackendError
        As `check`.
    BackendError
        When the store does not answer, or the marker cannot be written.
    """
    guard = _guard(store)
    if guard is not None:
        await guard.prepare()


async def doubts(stores: Iterable[ObjectStore]) -> dict[str, FsbackupError]:
    """Return why these replicas do not prove an absence, by name: they are filling, or their marker is unreadable.

    For a caller whom all of them have told that they do not have a key.
    """
    guards = [guard for store in stores if (guard := _guard(store)) is not None and guard.peers]
    found = await asyncio.gather(*(guard.doubt() for guard in guards))
    return {guard.store.name: error for guard, error in zip(guards, found, strict=True) if error is not None}


async def accept_empty(stores: Sequence[ObjectStore], names: Iterable[str], *, dry_run: bool) -> None:
    """Accept the empty backends called `names` as replicas that are to be filled; with `dry_run` for this process.

    Raises
    ------
    ConfigError
        When there is no such backend, or it is not empty; nothing was accepted then.
    BackendError
        When a backend does not answer.
    """
    by_name = {store.name: _attach(store) for store in stores}
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in by_name]:
        raise ConfigError(
            f"no backend of the set is called {', '.join(map(repr, unknown))}",
            hint=f"there are: {', '.join(by_name)}",
        )
    await asyncio.gather(*(by_name[name].require_empty() for name in wanted))
    await asyncio.gather(*(by_name[name].accept(dry_run=dry_run) for name in wanted))


async def finish(stores: Iterable[ObjectStore]) -> None:
    """Complete the markers that are filling, after a repair of the whole set; a failure is only logged."""
    guards = [guard for store in stores if (guard := _guard(store)) is not None and guard.peers]
    for guard, error in zip(guards, await asyncio.gather(*(_try(each.finish()) for each in guards)), strict=True):
        if error is not None:
            log.warning("%s: its marker stays as it is until the next repair: %s", guard.store.name, error)


async def read_marker(store: ObjectStore) -> Mark | None:
    """Return the backend's marker, None when it has none; raises what the store raises."""
    return await _attach(store).read()


@dataclass(frozen=True, slots=True)
class Mark:
    """A marker that is there; without fields it cannot be read, which still shows that a backend is there."""

    fields: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        """The random id of the backend, None when the marker cannot be read."""
        found = self.fields.get("id")
        return found if isinstance(found, str) else None

    @property
    def is_filling(self) -> bool:
        """Whether the backend was accepted empty and has not been filled yet."""
        return self.fields.get("filling") is True and self.fields.get("format") == _FORMAT


class BackendGuard:
    """What is known of one store of this process: whether it is in use, and its marker."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.peers: tuple[BackendGuard, ...] = ()
        self.in_use = False
        #: Empty, and not refused.
        self._accepted = False
        self._mark: Mark | None = None
        #: There was no marker when it was last read.
        self._unmarked = False
        self._is_prepared = False
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def require(self) -> None:
        """Raise unless an empty answer counts."""
        if self.peers and not self.in_use and not self._accepted:
            await self._once("require", self._require)

    async def _require(self) -> None:
        await self.look()
        if self._mark is None and not self.in_use:
            user, errors = await self._look_at_peers()
            if user is not None or errors:
                await self.look()  # it may have been marked in between, before the other one was
                if self._mark is None and not self.in_use:
                    raise self._refusal(user, errors) from next(iter(errors.values()), None)
            else:
                for peer in self._same_set():
                    peer._accepted = True
        self._accepted = True

    def _same_set(self) -> list[BackendGuard]:
        """Return the other replicas that are checked against the same ones."""
        members = {self, *self.peers}
        return [peer for peer in self.peers if {peer, *peer.peers} == members]

    async def _look_at_peers(self) -> tuple[BackendGuard | None, dict[str, FsbackupError]]:
        """Return the first other replica found to be in use, None when none is; and who did not answer."""
        errors: dict[str, FsbackupError] = {}

        async def look_at(peer: BackendGuard) -> tuple[BackendGuard, FsbackupError | None]:
            return peer, await _try(peer.look())

        tasks = [asyncio.create_task(look_at(peer)) for peer in self.peers]
        try:
            for answer in asyncio.as_completed(tasks):
                peer, error = await answer
                if peer.in_use:
                    return peer, {}
                if error is not None:
                    errors[peer.store.name] = error
        finally:
            await cancel_and_wait(set(tasks))
        return None, errors

    def _refusal(self, user: BackendGuard | None, errors: Mapping[str, FsbackupError]) -> WrongBackendError:
        why = (
            f"{user.store.name} is in use"
            if user is not None
            else f"whether {' and '.join(errors)} is in use is not known, since it does not answer"
        )
        return WrongBackendError(
            f"nothing is stored here ({self.store.location}), not even the backend's marker, and {why}",
            backend=self.store.name,
            hint="is the disk mounted? is this the bucket? if it is to start empty, run"
            f" `fsbackup repair --accept-empty {self.store.name}`",
        )

    async def look(self) -> None:
        """Find out whether the store is in use, unless that is known."""
        if not self.in_use:
            await self._once("look", self._look)

    async def _look(self) -> None:
        mark = await self.read()
        self.in_use = (mark is not None and not mark.is_filling) or await self._holds_anything()

    async def read(self) -> Mark | None:
        """Read the marker."""
        try:
            self._mark = _parse(await self._call(self.store.read(MARKER)))
        except ObjectNotFoundError:
            self._mark = None
        self._unmarked = self._mark is None
        return self._mark

    async def _holds_anything(self) -> bool:
        """Tell whether there is any object or record; what may not be listed is not seen."""
        try:
            return await self._call(self._lists("")) or await self._call(self._lists(META_PREFIX))
        except AccessDeniedError:
            return False

    async def _lists(self, prefix: str) -> bool:
        async with aclosing(self.store.list(prefix)) as listing:  # type: ignore[type-var]  # all are generators
            async for stat in listing:
                if not prefix or stat.name.startswith(_RECORD_PREFIXES):
                    return True
        return False

    async def prepare(self) -> None:
        """Make sure that the store may be written to and has a marker."""
        if self._is_prepared:
            return
        if not self.peers:
            await self._once("alone", self._mark_alone)
        else:
            await self.require()
            if not self.in_use:
                await self._once("found", self._found, self._same_set())
                await self.write(filling=True)
            elif self._unmarked:
                await self.write(filling=False)
        self._is_prepared = True

    async def _mark_alone(self) -> None:
        if not self.in_use and await self.read() is None:
            await self.write(filling=False)

    async def _found(self) -> None:
        """Make the markers of a new set; where another replica is in use, or may be, this one goes on filling."""
        if self._mark is not None:
            user, errors = await self._look_at_peers()
            if user is not None or errors:
                return
        members = (self, *self.peers)
        if await _all_succeed(each.write(filling=True) for each in members):
            await _all_succeed(each.complete() for each in members)

    async def write(self, *, filling: bool) -> None:
        """Make a marker where there is none."""
        if self._mark is None:
            await self._once("write", lambda: self._write(filling=filling))

    async def _write(self, *, filling: bool) -> None:
        mark = _new_mark(filling=filling)
        try:
            await self._call(self.store.put(MARKER, _dump(mark), create_only=True))
        except ConflictError:
            if await self.read() is None:
                raise
            return
        self._mark, self._unmarked = mark, False

    async def complete(self) -> None:
        """Write the marker again without ``filling``."""
        if self._mark is not None and self._mark.is_filling:
            await self._once("complete", self._complete)

    async def _complete(self) -> None:
        assert self._mark is not None
        mark = Mark({name: value for name, value in self._mark.fields.items() if name != "filling"})
        await self._call(self.store.put(MARKER, _dump(mark)))
        self._mark, self.in_use = mark, True

    async def finish(self) -> None:
        """Complete the marker if it is filling; read it first, unless it is known to be complete."""
        if self._mark is None or self._mark.is_filling:
            await self.read()
        await self.complete()

    async def doubt(self) -> FsbackupError | None:
        """Return why an empty answer of this replica does not prove an absence, None when it does."""
        unread = self._mark is None and not self._unmarked
        if unread or (self._mark is not None and self._mark.is_filling):
            error = await _try(self.read())
            if error is not None:
                return error
        if self._mark is None or not self._mark.is_filling or not await self._is_filled_by_others():
            return None
        return WrongBackendError(
            NOT_FILLED,
            backend=self.store.name,
            hint="run `fsbackup repair`",
        )

    async def _is_filled_by_others(self) -> bool:
        """Tell whether any replica has something; none in a set whose first write a crash ended."""
        user, errors = await self._look_at_peers()
        return user is not None or bool(errors)

    async def require_empty(self) -> None:
        """Raise unless the backend is empty, or was accepted before."""
        await self.read()
        accepted = self._mark is not None and self._mark.is_filling
        if self._mark is not None and not accepted:
            why = "it has its marker"
        elif not accepted and await self._holds_anything():
            why = "it holds objects"
        else:
            return
        raise ConfigError(
            f"backend {self.store.name!r} is not empty: {why}, so it is not refused",
            hint=f"run `fsbackup repair` without --accept-empty {self.store.name}",
        )

    async def accept(self, *, dry_run: bool) -> None:
        """Take the backend as it is: empty."""
        if not dry_run:
            await self.write(filling=True)
        self._accepted = True

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self.store.hard_timeout):
                return await call
        except TimeoutError:
            raise timeout_error(self.store, "check", MARKER) from None

    async def _once(
        self, name: str, make: Callable[[], Coroutine[Any, Any, None]], others: Sequence[BackendGuard] = ()
    ) -> None:
        """Run `make`, or wait for the run under this name that is under way here or at one of `others`."""
        loop = asyncio.get_running_loop()
        running = [each._running.get(name) for each in (self, *others)]
        task = next((each for each in running if each and not each.done() and each.get_loop() is loop), None)
        if task is None:
            task = self._running[name] = asyncio.create_task(make())
            task.add_done_callback(_retrieve)
        await asyncio.shield(task)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take the exception of a task whose waiters were all cancelled, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()


async def _all_succeed(works: Iterable[Coroutine[Any, Any, None]]) -> bool:
    """Wait for all, but not long for those that take much longer than the first; return whether all succeeded."""
    tasks = [asyncio.create_task(_try(each)) for each in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    _, late = await asyncio.wait(tasks, timeout=_STRAGGLER_TIMEOUT)
    await cancel_and_wait(late)
    return not late and all(task.result() is None for task in tasks)


async def _try(work: Awaitable[object]) -> FsbackupError | None:
    try:
        await work
    except FsbackupError as error:
        return error
    return None


def _guard(store: ObjectStore) -> BackendGuard | None:
    return store.guard if isinstance(store.guard, BackendGuard) else None


def _attach(store: ObjectStore) -> BackendGuard:
    guard = _guard(store)
    if guard is None:
        guard = store.guard = BackendGuard(store)
    return guard


def _new_mark(*, filling: bool) -> Mark:
    fields = {
        "format": _FORMAT,
        "kind": "backend",
        "id": secrets.token_hex(16),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "fsbackup_version": __version__,
    }
    return Mark({**fields, "filling": True} if filling else fields)


def _dump(mark: Mark) -> bytes:
    return json.dumps(dict(mark.fields), separators=(",", ":")).encode("ascii")


def _parse(data: bytes) -> Mark:
    try:
        fields = json.loads(data)
    except ValueError:
        fields = None
    return Mark(fields if isinstance(fields, dict) else {})
