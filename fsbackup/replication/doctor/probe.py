"""One backend tried out with a probe: a small object of our own that is always removed again."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
    as_backend_error,
)
from fsbackup.events import log
from fsbackup.keys import META_PREFIX
from fsbackup.stores.base import (
    BackendInfo,
    ObjectStore,
    ObjectWriter,
    Part,
    WritePlan,
    timeout_error,
)

PROBES = f"{META_PREFIX}doctor-"
#: Seconds after which a probe is of no examination that still goes on.
_FORGOTTEN = 3600.0
#: Seconds for removing the probe of an examination that was interrupted.
_CLEANUP = 20.0


@dataclass(slots=True)
class ProbeResult:
    """What a visit found.

    Parameters
    ----------
    trials
        What was tried, with the error it ended in, None when it worked.
    facts
        What the store says of its place.
    tells_absent
        Whether it says of a missing object that it is missing, tried where listing is not allowed.
    forgotten
        The probes of earlier examinations that are still there.
    ahead
        Seconds that the time of the stored probe is ahead of our clock, None when the place told none.
    left_behind
        The probe, when it could not be removed.
    """

    trials: dict[str, FsbackupError | None] = field(default_factory=dict)
    facts: BackendInfo = field(default_factory=BackendInfo)
    tells_absent: bool = True
    forgotten: list[str] = field(default_factory=list)
    ahead: float | None = None
    left_behind: str | None = None

    def worked(self, name: str) -> bool:
        """Tell whether this was tried, without an error."""
        return name in self.trials and self.trials[name] is None


class Probe:
    """The examination of one store."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._probe = f"{PROBES}{secrets.token_hex(8)}"
        self._data = f"fsbackup doctor was here: {secrets.token_hex(8)}".encode()
        self._found = ProbeResult()
        self._writer: ObjectWriter | None = None
        self._may_be_there = False
        self._silent = False

    async def run(self) -> ProbeResult:
        """Try everything, and remove the probe whatever happens."""
        try:
            await self._try_all()
        except BaseException:
            await _to_the_end(self._clean_up())
            raise
        return self._found

    async def _try_all(self) -> None:
        if not await self._try("list", self._list) and not self._refused("list"):
            return  # nobody is there, or nothing to work in: the rest would only say so again
        await self._try_abilities()
        await self._try("facts", self._ask)
        if self._may_be_there:
            await self._delete()

    async def _try_abilities(self) -> None:
        if self._refused("list"):
            self._found.tells_absent = await self._try("absent", lambda: self._store.stat(self._probe))
        if await self._try("write", self._write):
            await self._try("read", self._read_back)
            await self._try("create-only", self._create_again)
        else:
            # A clear refusal stored nothing; after anything else nobody knows.
            self._may_be_there = self._may_be_there and not self._refused("write")
            await self._try("read", self._read_nothing)

    async def _try(self, name: str, call: Callable[[], Awaitable[Any]]) -> bool:
        """Note how it ends, and tell whether it worked; a store that fell silent is not tried again."""
        if self._silent:
            return False
        error: FsbackupError | None = None
        try:
            async with asyncio.timeout(self._store.hard_timeout):
                await call()
        except TimeoutError:
            error = timeout_error(self._store, name, self._probe)
        except Exception as raised:  # noqa: BLE001 - one store's failure is its result, never another's
            error = as_backend_error(raised, self._store.name, self._probe, name)
        self._found.trials[name] = error
        self._silent = isinstance(error, BackendUnavailableError)
        return error is None

    def _refused(self, name: str) -> bool:
        return isinstance(self._found.trials.get(name), AccessDeniedError)

    async def _list(self) -> None:
        forgotten = time.time() - _FORGOTTEN
        async for found in self._store.list(PROBES):
            if found.modified is not None and found.modified < forgotten:
                self._found.forgotten.append(found.name)

    async def _write(self) -> None:
        self._may_be_there = True
        plan = WritePlan(size=len(self._data), is_new=True)
        self._writer = self._store.writer(self._probe, plan, lambda _: None)
        try:
            await self._writer.write(Part(1, 0, self._data, last=True))
            stored = await self._writer.commit()
        except BaseException:
            await self._writer.abort()
            raise
        if stored.modified is not None:
            self._found.ahead = stored.modified - time.time()

    async def _read_back(self) -> None:
        if await self._store.read(self._probe) != self._data:
            raise IntegrityError("other bytes came back than were stored", backend=self._store.name)

    async def _read_nothing(self) -> None:
        try:
            await self._store.read(self._probe)
        except ObjectNotFoundError:
            return

    async def _create_again(self) -> None:
        try:
            await self._store.put(self._probe, self._data, create_only=True)
        except ConflictError:
            return
        raise BackendError(
            "an object that was there was replaced, although only a new one was to be created",
            backend=self._store.name,
            hint="let only one machine write to it, and look for a proxy that drops the header If-None-Match",
        )

    async def _ask(self) -> None:
        self._found.facts = await self._store.info(self._probe if self._found.worked("write") else None)

    async def _delete(self) -> None:
        self._silent = False  # one try more, for the sake of what we put there
        if await self._try("delete", self._remove):
            self._may_be_there = False
        else:
            self._found.left_behind = self._probe

    async def _remove(self) -> None:
        await self._store.remove(self._probe)
        await self._remove_version()
        if self._found.worked("read") and await self._store.stat(self._probe) is not None:
            raise BackendError("it was deleted, and is still there", backend=self._store.name)

    async def _remove_version(self) -> None:
        """Remove the version that a plain delete has only hidden, where that is allowed."""
        if self._writer is not None and not self._store.capabilities.removes_versions:
            try:
                await self._writer.rollback()
            except FsbackupError as error:
                log.debug("%s: the probe's bytes stay as an older version: %s", self._store.name, error)

    async def _clean_up(self) -> None:
        if not self._may_be_there:
            return
        try:
            async with asyncio.timeout(_CLEANUP):
                await self._store.remove(self._probe)
                await self._remove_version()
        except Exception as error:  # noqa: BLE001 - what interrupted us goes on, and this is told
            log.warning("%s: the doctor's probe %s may stay behind: %s", self._store.name, self._probe, error)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end, also when cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return
