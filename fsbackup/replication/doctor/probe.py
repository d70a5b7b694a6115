"""Tries the operations of one backend with a probe, a small object that is deleted again in every case."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fsbackup import clock
from fsbackup.aio import shield
from fsbackup.engine import records
from fsbackup.engine.mark import Mark
from fsbackup.engine.marker import check, read_marker
from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectNotFoundError,
    WrongBackendError,
    as_backend_error,
)
from fsbackup.events import log
from fsbackup.keys import MANIFESTS, META_PREFIX, decode_name, manifest_key
from fsbackup.stores.base import (
    BackendInfo,
    ObjectStat,
    ObjectStore,
    ObjectWriter,
    Part,
    WritePlan,
    timeout_error,
)

#: Names among which the object stored last is looked for: one page of a listing.
_LISTED = 1000

PROBES = f"{META_PREFIX}doctor-"
#: Seconds after which a probe does not belong to a run of doctor that still goes on.
_OLD_PROBE = 3600.0
#: Seconds to delete the probe after an interruption.
_CLEANUP = 20.0


@dataclass(slots=True)
class ProbeResult:
    """The result of a probe.

    Parameters
    ----------
    trials
        The operations that were tried, with their error, None when it worked.
    facts
        What the store says about itself.
    reports_absence
        Whether a missing object gives 404 rather than 403; tried only where listing is not allowed.
    old_probes
        Probes that earlier runs left.
    clock_ahead
        Seconds by which the probe's time is ahead of this machine's clock, None when the store returned none.
    left_behind
        The probe, when it could not be deleted.
    refusal
        Why the backend is taken for another one than it was; nothing else was tried then.
    mark
        Its marker, None when it has none or it could not be read.
    """

    trials: dict[str, FsbackupError | None] = field(default_factory=dict)
    facts: BackendInfo = field(default_factory=BackendInfo)
    reports_absence: bool = True
    old_probes: list[str] = field(default_factory=list)
    clock_ahead: float | None = None
    left_behind: str | None = None
    refusal: WrongBackendError | None = None
    mark: Mark | None = None

    @property
    def problem(self) -> FsbackupError | None:
        """Why nothing can be stored there, or not be read back; None when it can."""
        errors = (self.trials.get(name) for name in ("write", "read", "create-only"))
        return self.refusal or next(filter(None, errors), None)

    def worked(self, name: str) -> bool:
        """Tell whether the operation was tried, without an error."""
        return name in self.trials and self.trials[name] is None


class Probe:
    """Tries the operations of one store."""

    def __init__(self, store: ObjectStore, prefix: str = PROBES) -> None:
        self._store = store
        self._probe = f"{prefix}{secrets.token_hex(8)}"
        self._data = f"fsbackup doctor was here: {secrets.token_hex(8)}".encode()
        self._result = ProbeResult()
        self._writer: ObjectWriter | None = None
        self._may_exist = False
        self._stopped_answering = False

    async def run(self) -> ProbeResult:
        """Try everything, and delete the probe whatever happens."""
        return await self._cleaning_up(self._try_all)

    async def run_operations(self) -> ProbeResult:
        """Try to write, read, create once and delete, and nothing else."""
        return await self._cleaning_up(self._try_operations_only)

    async def _cleaning_up(self, tries: Callable[[], Awaitable[None]]) -> ProbeResult:
        try:
            await tries()
        except BaseException:
            await shield(self._clean_up())
            raise
        return self._result

    async def _try_all(self) -> None:
        if not await self._try("list", self._list) and not self._refused("list"):
            return  # no server, or no bucket or directory: every other operation would fail the same way
        if self._refused("list"):  # asked first: a store that was shown the marker knows that its bucket is there
            self._result.reports_absence = await self._try("absent", lambda: self._store.stat(self._probe))
        await self._look_at_marker()
        if self._result.refusal is not None:
            return
        await self._try_operations()
        if self._result.worked("list"):
            await self._try("records", self._read_latest_record)
        await self._try("facts", self._read_info)
        if self._may_exist:
            await self._delete()

    async def _try_operations_only(self) -> None:
        await self._look_at_marker()
        if self._result.refusal is None:
            await self._try_operations()
        if self._may_exist:
            await self._delete()

    async def _look_at_marker(self) -> None:
        """Find out whether it is the right backend; what it does not answer is left to the operations."""
        if self._stopped_answering:
            return
        try:
            await check(self._store, empty=True)
            self._result.mark = await read_marker(self._store)
        except WrongBackendError as error:
            self._result.refusal = error if error.cause is None else None
        except FsbackupError as error:
            log.debug("%s: its marker cannot be read: %s", self._store.name, error)

    async def _try_operations(self) -> None:
        if await self._try("write", self._write):
            await self._try("read", self._read_back)
            await self._try("create-only", self._create_again)
        else:
            # A 403 stored nothing; after any other error the probe may exist.
            self._may_exist = self._may_exist and not self._refused("write")
            await self._try("read", self._read_nothing)

    async def _try(self, name: str, call: Callable[[], Awaitable[Any]]) -> bool:
        """Record the outcome, and tell whether it worked; a store that stopped answering is not tried again."""
        if self._stopped_answering:
            return False
        error: FsbackupError | None = None
        try:
            async with asyncio.timeout(self._store.hard_timeout):
                await call()
        except TimeoutError:
            error = timeout_error(self._store, name, self._probe)
        except Exception as raised:  # noqa: BLE001 - the failure of one store is its result, never another's
            error = as_backend_error(raised, self._store.name, self._probe, name)
        self._result.trials[name] = error
        self._stopped_answering = isinstance(error, BackendUnavailableError)
        return error is None

    def _refused(self, name: str) -> bool:
        return isinstance(self._result.trials.get(name), AccessDeniedError)

    async def _list(self) -> None:
        before = clock.now() - _OLD_PROBE
        async for stat in self._store.list(PROBES):
            if stat.modified is not None and stat.modified < before:
                self._result.old_probes.append(stat.name)

    async def _write(self) -> None:
        self._may_exist = True
        plan = WritePlan(size=len(self._data), is_new=True)
        self._writer = self._store.writer(self._probe, plan, lambda _: None)
        try:
            await self._writer.write(Part(1, 0, self._data, last=True))
            stored = await self._writer.commit()
        except BaseException:
            await self._writer.abort()
            raise
        if stored.modified is not None:
            self._result.clock_ahead = stored.modified - clock.now()

    async def _read_back(self) -> None:
        if await self._store.read(self._probe) != self._data:
            raise IntegrityError(
                "the bytes that were read are not the bytes that were stored", backend=self._store.name
            )

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
            "a create-only write replaced an existing object",
            backend=self._store.name,
            hint="let only one machine write to it, and check for a proxy that drops the header If-None-Match",
        )

    async def _read_latest_record(self) -> None:
        """Read the record of the object stored last, among the first that are listed: a newer version wrote it?"""
        inside = records.has_records_inside(self._store)
        latest: ObjectStat | None = None
        async with aclosing(self._store.list("" if inside else MANIFESTS)) as names:  # type: ignore[type-var]
            count = 0
            async for stat in names:
                latest = max(latest or stat, stat, key=lambda each: each.modified or 0.0)
                count += 1
                if count == _LISTED:
                    break
        key = None if latest is None else (decode_name if inside else manifest_key)(latest.name)
        if key is not None:
            await records.read_state(self._store, key)

    async def _read_info(self) -> None:
        self._result.facts = await self._store.info()

    async def _delete(self) -> None:
        self._stopped_answering = False  # one more try, to delete the probe
        if await self._try("delete", self._remove):
            self._may_exist = False
        else:
            self._result.left_behind = self._probe

    async def _remove(self) -> None:
        await self._store.remove(self._probe)
        await self._remove_version()
        if self._result.worked("read") and await self._store.stat(self._probe) is not None:
            raise BackendError("DELETE succeeded, but the object still exists", backend=self._store.name)

    async def _remove_version(self) -> None:
        """Delete the version that a DELETE only hid, where that is allowed."""
        if self._writer is not None and not self._store.capabilities.removes_versions:
            try:
                await self._writer.rollback()
            except FsbackupError as error:
                log.debug("%s: the probe remains as an older version: %s", self._store.name, error)

    async def _clean_up(self) -> None:
        if not self._may_exist:
            return
        try:
            async with asyncio.timeout(_CLEANUP):
                await self._store.remove(self._probe)
                await self._remove_version()
        except Exception as error:  # noqa: BLE001 - the interruption is raised, this is logged
            log.warning("%s: the probe %s may remain: %s", self._store.name, self._probe, error)
