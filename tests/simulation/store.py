"""Simulated stores: objects in a dictionary that several processes share; each request is a step of the world."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fsbackup.errors import BackendUnavailableError, ConflictError, IntegrityError, ObjectNotFoundError
from fsbackup.stores.base import Capabilities, ObjectStat, ObjectStore, ObjectWriter, Part, WritePlan
from tests.simulation.world import Process, World

#: Names per page of a listing.
_PAGE = 3
#: Seconds between two attempts to get a lock.
_LOCK_PAUSE = 0.01


@dataclass(frozen=True)
class Kind:
    """What a kind of store can do.

    `etags`: of the content, of each write, or none. `versions`: a replaced object can be put back, and `remove`
    removes version by version. `keeps`: a replaced object can be put back while its writer lives. `seconds`: times
    are whole seconds. `locks`: processes can exclude each other. `compares`: what is removed has the ETag that was
    looked at.
    """

    name: str
    inside: bool
    conditional: bool
    etags: Literal["content", "write", "none"]
    versions: bool = False
    seconds: bool = True
    locks: bool = False
    keeps: bool = False
    compares: bool = False


#: A disk, a network disk that ignores locks, an FTP server, and buckets of different services.
KINDS = {
    each.name: each
    for each in (
        Kind("disk", inside=False, conditional=True, etags="write", seconds=False, locks=True, keeps=True),
        Kind("share", inside=False, conditional=True, etags="write", seconds=False),
        Kind("ftp", inside=False, conditional=False, etags="none"),
        Kind("gateway", inside=False, conditional=True, etags="content"),
        Kind("old", inside=False, conditional=False, etags="content"),
        Kind("r2", inside=True, conditional=True, etags="content"),
        Kind("kms", inside=True, conditional=True, etags="write"),
        Kind("amazon", inside=True, conditional=True, etags="content", compares=True),
        Kind("b2", inside=True, conditional=False, etags="content", versions=True),
    )
}


@dataclass(frozen=True)
class Stored:
    """One stored object; `serial` is its own in the whole run, `writer` the process that stored it."""

    data: bytes
    metadata: Mapping[str, str]
    etag: str | None
    version_id: str | None
    modified: float
    serial: int
    writer: str

    @property
    def note(self) -> str:
        """What it is, for people."""
        return f"#{self.serial}"


@dataclass
class Bucket:
    """What one store holds: the versions of each object, the current one last."""

    name: str
    kind: Kind
    versions: dict[str, list[Stored]] = field(default_factory=dict)

    def get(self, name: str) -> Stored | None:
        """Return the current version of an object."""
        found = self.versions.get(name)
        return found[-1] if found else None

    def put(self, name: str, stored: Stored) -> Stored:
        """Make `stored` the current version."""
        before = self.versions.get(name, []) if self.kind.versions else []
        self.versions[name] = [*before, stored]
        return stored

    def drop(self, name: str, serial: int | None = None) -> None:
        """Remove one version, or all."""
        kept = [each for each in self.versions.get(name, []) if serial is not None and each.serial != serial]
        self.versions.pop(name, None)
        if kept:
            self.versions[name] = kept

    def copy(self) -> Bucket:
        """Return a bucket with the same objects."""
        return Bucket(self.name, self.kind, {name: list(each) for name, each in self.versions.items()})


@dataclass(frozen=True)
class Found:
    """A listing's page, or versions, with a note for the trace."""

    stats: tuple[ObjectStat, ...] = ()
    serials: tuple[int, ...] = ()

    @property
    def note(self) -> str:
        return " ".join([*(each.name for each in self.stats), *(f"#{each}" for each in self.serials)])


class SimStore(ObjectStore):
    """One process's view of a bucket."""

    def __init__(self, world: World, process: Process, bucket: Bucket) -> None:
        super().__init__(bucket.name, timeout=60.0)
        self.world, self.process, self.bucket = world, process, bucket
        kind = bucket.kind
        self.capabilities = Capabilities(  # type: ignore[misc]  # depends on the bucket
            conditional_create=kind.conditional,
            wants_md5=kind.etags == "content",
            removes_versions=kind.versions,
            content_etags="single" if kind.etags == "content" else "none",
            metadata_limit=2048 if kind.inside else 0,
            locks=kind.locks,
            keeps_replaced=kind.keeps or kind.versions,
        )

    @property
    def location(self) -> str:
        return f"sim://{self.process.name}/{self.name}"  # no lock of one process is another's

    @property
    def filesystem(self) -> Any:
        return None

    async def stat(self, name: str) -> ObjectStat | None:
        found = await self._ask("stat", name, lambda: self.bucket.get(name))
        return None if found is None else self.describe(name, found)

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002 - the bytes come at once
    ) -> bytes:
        found: Stored | None = await self._ask("read", name, lambda: self.bucket.get(name))
        if found is None:
            raise ObjectNotFoundError("no such key", backend=self.name, operation="read", key=name)
        return found.data[start:end]

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        return SimWriter(self, name, plan, on_progress)

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        after = start_after
        while True:
            page = await self._ask("list", prefix, lambda: self._page(prefix, after))  # noqa: B023 - awaited here
            for stat in page.stats:
                yield stat
            if len(page.stats) < _PAGE:
                return
            after = page.stats[-1].name

    def _page(self, prefix: str, after: str) -> Found:
        hidden = ".fsbackup/" if not prefix.startswith(".fsbackup/") else "\0"
        names = sorted(
            name
            for name in self.bucket.versions
            if name.startswith(prefix) and name > after and not name.startswith(hidden)
        )
        found = [(name, self.bucket.get(name)) for name in names[:_PAGE]]
        return Found(tuple(replace(self.describe(name, each), metadata={}) for name, each in found if each))

    async def remove(self, name: str) -> None:
        if not self.bucket.kind.versions:
            await self._tell("remove", name, lambda: self.bucket.drop(name))
            return
        found = await self._ask("vlist", name, lambda: self._versions(name))
        for serial in found.serials:
            await self._tell("vremove", name, lambda: self.bucket.drop(name, serial))  # noqa: B023 - awaited here

    async def remove_version(self, stat: ObjectStat) -> None:
        if self.bucket.kind.compares:
            await self._tell("remove", stat.name, lambda: self._drop_unchanged(stat))
            return
        if not self.bucket.kind.versions:
            await self.remove(stat.name)
            return
        found = await self._ask("vlist", stat.name, lambda: self._versions(stat.name))
        newest = int((stat.version_id or "v0")[1:])
        for serial in found.serials:
            if serial <= newest:
                await self._tell("vremove", stat.name, lambda: self.bucket.drop(stat.name, serial))  # noqa: B023
        if any(serial > newest for serial in found.serials):
            raise ConflictError("another object has the name", backend=self.name, key=stat.name)

    def _drop_unchanged(self, stat: ObjectStat) -> None:
        now = self.bucket.get(stat.name)
        if now is not None and now.etag != stat.etag:
            raise ConflictError("another object has the name", backend=self.name, key=stat.name)
        self.bucket.drop(stat.name)

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:
        lock = (self.name, name)
        if not self.bucket.kind.locks:
            yield
            return
        while not await self._ask("lock", name, lambda: self.world.lock(lock, self.process)):  # noqa: ASYNC110
            await asyncio.sleep(_LOCK_PAUSE)
        try:
            yield
        finally:
            self.world.unlock(lock, self.process)

    def _versions(self, name: str) -> Found:
        return Found(serials=tuple(each.serial for each in self.bucket.versions.get(name, [])))

    async def replace_metadata(self, stat: ObjectStat, metadata: Mapping[str, str]) -> ObjectStat:
        if not self.bucket.kind.inside:
            raise NotImplementedError

        def effect() -> Stored:
            now = self.bucket.get(stat.name)
            if now is None or now.etag != stat.etag:
                raise ConflictError("another object has the name", backend=self.name, key=stat.name)
            return self.bucket.put(stat.name, self.make(now.data, metadata))

        return self.describe(stat.name, await self._tell("remeta", stat.name, effect))

    def make(self, data: bytes, metadata: Mapping[str, str]) -> Stored:
        """Return a new object, as the service would store it now."""
        kind, serial = self.bucket.kind, self.world.next_serial()
        etags = {"content": hashlib.md5(data, usedforsecurity=False).hexdigest(), "write": f"w-{serial}"}
        now = self.world.clock.seconds()
        return Stored(
            data,
            dict(metadata) if kind.inside else {},
            etags.get(kind.etags),
            f"v{serial}" if kind.versions else None,
            float(int(now)) if kind.seconds else now,
            serial,
            self.process.name,
        )

    def describe(self, name: str, stored: Stored) -> ObjectStat:
        """Return what the service reports of an object."""
        return ObjectStat(
            name, len(stored.data), stored.modified, stored.etag, stored.version_id, dict(stored.metadata)
        )

    async def _ask(self, verb: str, name: str, effect: Callable[[], Any]) -> Any:
        return await self.world.request(self.process, self.name, verb, name, effect)

    async def _tell(self, verb: str, name: str, effect: Callable[[], Any]) -> Any:
        return await self.world.request(self.process, self.name, verb, name, effect, writes=True)


class SimWriter(ObjectWriter):
    """Collects the parts; one of several is a step of its own, but shows nothing."""

    def __init__(self, store: SimStore, name: str, plan: WritePlan, moved: Callable[[int], None]) -> None:
        self._store, self._name, self._plan, self._moved = store, name, plan, moved
        self._parts: dict[int, Part] = {}
        self._tried: list[int] = []
        self._puts = False
        self._stored: Stored | None = None
        self._replaced: Stored | None = None

    async def write(self, part: Part) -> None:
        if not (part.number == 1 and part.last):
            await self._store._ask("part", self._name, lambda: None)
        self._parts[part.number] = part
        self._moved(len(part.data))

    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        numbers = sorted(self._parts)
        if numbers != list(range(1, len(numbers) + 1)) or not numbers or not self._parts[numbers[-1]].last:
            raise IntegrityError("parts are missing", backend=self._store.name, key=self._name)
        # The metadata of an object of several parts was sent before its first part.
        added = (metadata or {}) if len(numbers) == 1 else {}
        data = b"".join(self._parts[number].data for number in numbers)
        await self._ask_first()
        self._puts = True
        try:
            self._stored = await self._store._tell("put", self._name, lambda: self._put(data, added))
        except BackendUnavailableError:
            found = await self._store._ask("stat", self._name, lambda: self._store.bucket.get(self._name))
            if found is None or found.serial not in self._tried:
                raise
            self._stored = found
        assert self._stored is not None
        await self._require_first(self._stored)
        await self._require_next(self._stored)
        return self._store.describe(self._name, self._stored)

    async def _require_first(self, stored: Stored) -> None:
        """Where the service keeps versions, the first of several create-only writers wins."""
        store, name = self._store, self._name
        if not (self._plan.create_only and store.bucket.kind.versions):
            return
        found = await store._ask("vlist", name, lambda: store._versions(name))
        if found.serials[:1] not in ((), (stored.serial,)):
            await store._tell("vremove", name, lambda: store.bucket.drop(name, stored.serial))
            raise self._exists()

    async def _require_next(self, stored: Stored) -> None:
        """Where the service keeps versions, what replaces one version under a condition comes right after it."""
        store, name, plan = self._store, self._name, self._plan
        if not (plan.conditional and plan.replaces_version and store.bucket.kind.versions):
            return
        found = await store._ask("vlist", name, lambda: store._versions(name))
        before = [serial for serial in found.serials if serial < stored.serial][-1:]
        if stored.serial in found.serials and [f"v{each}" for each in before] != [plan.replaces_version]:
            await store._tell("vremove", name, lambda: store.bucket.drop(name, stored.serial))
            raise self._exists()

    async def _ask_first(self) -> None:
        """Ask whether the name exists, where the service has no condition for that."""
        store, plan = self._store, self._plan
        asks = plan.create_only and plan.ask_first and not store.bucket.kind.conditional
        if asks and await store.stat(self._name) is not None:
            raise self._exists()

    def _put(self, data: bytes, added: Mapping[str, str]) -> Stored:
        bucket = self._store.bucket
        if self._refuses():
            raise self._exists()
        stored = self._store.make(data, {**self._plan.metadata, **added})
        self._tried.append(stored.serial)
        self._replaced = bucket.get(self._name) if self._plan.keep_replaced else None
        return bucket.put(self._name, stored)

    def _refuses(self) -> bool:
        bucket, plan = self._store.bucket, self._plan
        now = bucket.get(self._name)
        if not bucket.kind.conditional:
            return False
        if plan.create_only:
            return now is not None
        knows = bucket.kind.inside and plan.replaces is not None
        return knows and (now is None or now.etag != plan.replaces)

    def _exists(self) -> ConflictError:
        return ConflictError("the name exists", backend=self._store.name, operation="write", key=self._name)

    def revoke(self) -> bool:
        return not self._puts

    async def abort(self) -> None:
        self._parts.clear()

    async def can_roll_back(self) -> bool:
        store, name = self._store, self._name
        if self._stored is None or self._replaced is None or not store.capabilities.keeps_replaced:
            return False
        if not store.bucket.kind.versions:
            found = await store._ask("stat", name, lambda: store.bucket.get(name))
            return found is not None and found.serial == self._stored.serial
        versions = await store._ask("vlist", name, lambda: store._versions(name))
        return bool(versions.serials[-2:] == (self._replaced.serial, self._stored.serial))

    async def rollback(self) -> None:
        stored, store, name = self._stored, self._store, self._name
        if stored is not None and store.bucket.kind.versions:
            await store._tell("vremove", name, lambda: store.bucket.drop(name, stored.serial))
        elif store.bucket.kind.keeps:
            await store._tell("restore", name, self._put_back)

    def _put_back(self) -> None:
        bucket, stored, replaced = self._store.bucket, self._stored, self._replaced
        now = bucket.get(self._name)
        if replaced is not None and stored is not None and now is not None and now.serial == stored.serial:
            bucket.put(self._name, replaced)
