"""What is known of one backend and its marker; `fsbackup.engine.marker` has the protocol, and others call that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fsbackup.aio import cancel_and_wait, retrieve_error
from fsbackup.engine.mark import Mark
from fsbackup.errors import (
    AccessDeniedError,
    ConfigError,
    ConflictError,
    FsbackupError,
    ObjectNotFoundError,
    WrongBackendError,
)
from fsbackup.keys import INTENTS, MANIFESTS, MARKER, META_PREFIX, RECORDS, TOMBSTONES
from fsbackup.stores.base import NO_PLACE, ObjectStore, timeout_error

T = TypeVar("T")

#: Seconds that the first write of a set waits for the markers of the other replicas.
_STRAGGLER_TIMEOUT = 2.0
#: What is said of a backend whose marker is *filling*.
NOT_FILLED = "it was accepted empty and has not been filled completely: what it lacks proves nothing"
#: What begins like this is part of a backup; the rest below `.fsbackup/` is there also on a wrong disk.
_RECORD_PREFIXES = (MANIFESTS, RECORDS, INTENTS, TOMBSTONES)


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
        #: Of which place all this is known, and whether it came in the place of another.
        self._place: tuple[int, int] | None = None
        self._was_replaced = False
        self._running: dict[str, asyncio.Task[Any]] = {}

    def refresh(self) -> None:
        """Forget what was found when the last call to the store saw another place: a disk was (un)mounted.

        What this process has made where nothing was is not another place.
        """
        place = self.store.place_id()
        if place == self._place:
            return
        if self._place not in (None, NO_PLACE):
            self.in_use = self._accepted = self._unmarked = self._is_prepared = False
            self._mark, self._was_replaced = None, True
        self._place = place

    async def note_object(self) -> None:
        """Take note of an answer that shows an object: the backend is in use.

        A place that came later is looked at all the same: the answer may be one of the place before.
        """
        self.refresh()
        if self._was_replaced:
            await self.look()
        else:
            self.in_use = True
        if self.in_use:
            self._keep()

    def _keep(self) -> None:
        """Have the store write only to the place that was found to be right, also in writes that are under way."""
        self.store.keep_place(self._place)

    async def require(self) -> None:
        """Raise unless an empty answer counts."""
        self.refresh()
        if self.peers and not self.in_use and not self._accepted:
            await self._once("require", self._require)
        self._keep()

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
        """Return the first other replica found to be in use, or None; and the errors of the others."""
        errors: dict[str, FsbackupError] = {}

        async def look_at(peer: BackendGuard) -> tuple[BackendGuard, FsbackupError | None]:
            return peer, await attempt(peer.look_again())

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

    async def look_again(self) -> None:
        """As `look`; where places can be told apart, ask also a backend that is known to be in use."""
        if self.in_use and self.store.place_id() is not None:
            await self.read()
        await self.look()

    async def _look(self) -> None:
        mark = await self.read()
        self.in_use = (mark is not None and not mark.is_filling) or await self._holds_anything()

    async def read(self) -> Mark | None:
        """Read the marker."""
        try:
            mark = Mark.load(await self._call(self.store.read(MARKER)))
        except ObjectNotFoundError:
            mark = None
        self.refresh()
        self._mark = mark
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
        self.refresh()
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
            await _all_succeed(each.fill() for each in members)

    async def write(self, *, filling: bool) -> None:
        """Make a marker where there is none."""
        if self._mark is None:
            await self._once("write", lambda: self._write(filling=filling))

    async def _write(self, *, filling: bool) -> None:
        mark = Mark.new(filling=filling)
        self._keep()
        try:
            await self._call(self.store.put(MARKER, mark.dump(), create_only=True))
        except ConflictError:
            if await self.read() is None:
                raise
            return
        self.refresh()  # the directory may have been made for it
        self._keep()
        self._mark, self._unmarked = mark, False

    async def fill(self, prefix: str = "") -> None:
        """Write the marker again: filled at or below `prefix`, and complete with an empty one."""
        if self._mark is not None and not self._mark.is_filled(prefix):
            await self._once(f"fill {prefix}", lambda: self._fill(prefix))

    async def _fill(self, prefix: str) -> None:
        assert self._mark is not None
        mark = self._mark.fill(prefix)
        await self._call(self.store.put(MARKER, mark.dump()))
        self._mark, self.in_use = mark, True

    async def finish(self, prefix: str) -> None:
        """As `fill`; read the marker first, unless it is known to be complete."""
        self.refresh()
        if self._mark is None or self._mark.is_filling:
            await self.read()
        await self.fill(prefix)

    async def doubt(self, prefix: str) -> FsbackupError | None:
        """Return why an empty answer about `prefix` does not prove an absence, None when it does.

        While this process makes the markers of a new set, one replica has its complete marker before another.
        """
        if (task := self._under_way("found", self._same_set())) is not None:
            await asyncio.wait({task})
        self.refresh()
        unread = self._mark is None and not self._unmarked
        if unread or (self._mark is not None and not self._mark.is_filled(prefix)):
            error = await attempt(self.read())
            if error is not None:
                return error
        if self._mark is None or self._mark.is_filled(prefix) or not await self._is_filled_by_others():
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
        task = self._under_way(name, others)
        if task is None:
            task = self._running[name] = asyncio.create_task(make())
            task.add_done_callback(retrieve_error)
        await asyncio.shield(task)

    def _under_way(self, name: str, others: Sequence[BackendGuard]) -> asyncio.Task[Any] | None:
        loop = asyncio.get_running_loop()
        running = [each._running.get(name) for each in (self, *others)]
        return next((each for each in running if each and not each.done() and each.get_loop() is loop), None)


async def _all_succeed(works: Iterable[Coroutine[Any, Any, None]]) -> bool:
    """Wait for all, but not long for those that take much longer than the first; return whether all succeeded."""
    tasks = [asyncio.create_task(attempt(each)) for each in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    _, late = await asyncio.wait(tasks, timeout=_STRAGGLER_TIMEOUT)
    await cancel_and_wait(late)
    return not late and all(task.result() is None for task in tasks)


async def attempt(work: Awaitable[object]) -> FsbackupError | None:
    try:
        await work
    except FsbackupError as error:
        return error
    return None
