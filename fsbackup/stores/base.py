"""The object I/O that a backend provides: stat, read a range, write, list, remove. All of it is asynchronous.

Uploads, downloads, records and replication are written once against these classes. A store addresses an object by
its *name*, the encoded form of its key (see `fsbackup.keys`), and knows nothing of records.

What every implementation must keep
-----------------------------------
- A reader of a name gets the old object or the new one, also after a crash; never a part of either.
- `ObjectNotFoundError` (or None from `stat`) only when the backend clearly answers "no such key". An outage, a
  refusal, a missing bucket or a missing base directory is another `BackendError`.
- Errors are `BackendError`s and carry backend, operation, name and a hint; they never contain a secret.
- The implementation retries transient failures itself, in one layer and within `timeout`.
- `timeout` is the longest time in seconds during which no byte moves; the total time is not limited.
- Cancelling an operation removes its temp files and unfinished uploads.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from fsbackup.aio import map_some
from fsbackup.errors import BackendUnavailableError, FsbackupError
from fsbackup.lazy import cached_property
from fsbackup.sizing import DEFAULT_PART_SIZE

if TYPE_CHECKING:
    from fsbackup.buffers import Buffers

#: Seconds without a byte moved after which a backend counts as unavailable.
DEFAULT_TIMEOUT = 60.0
#: Pauses in seconds before a service that does not show what it has just stored is asked again, all in all 3 s:
#: services are eventually consistent now and then, and a 404 after one's own PUT proves nothing.
SHOWN_AFTER = (0.1, 0.2, 0.4, 0.8, 1.5)
#: The field of user metadata with an object's manifest, or with the id of its manifest (see `engine.records`).
RECORD_FIELD = "fsbackup"
#: Names of what a listing passes over that it returns.
_NAMED = 3
#: Removals that `ObjectStore.remove_many` runs at once by default.
_REMOVALS = 16


#: Names below one segment after which a listing of a level skips the others: as many as one LIST returns.
_SKIP_AFTER = 1000
#: Sorts after every name below a prefix.
_LAST_NAME = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """The properties of one stored object, as the backend reports them.

    Parameters
    ----------
    name
        The object's name in the backend.
    size
        Bytes.
    modified
        Epoch seconds, None where the backend reports no time.
    etag, version_id
        As the backend reports them, without quotes; None where it has none.
    metadata
        The user metadata stored with the object; empty in listings.
    """

    name: str
    size: int
    modified: float | None = None
    etag: str | None = None
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def content_etag(md5s: Sequence[bytes]) -> str:
    """Return the ETag that S3 services make of the MD5s of an object's parts.

    That of one part is its MD5; that of several the MD5 of their MD5s, a hyphen, and their number.
    """
    return md5s[0].hex() if len(md5s) == 1 else parts_etag(md5s)


def parts_etag(md5s: Sequence[bytes]) -> str:
    """Return the ETag of an object that was uploaded in parts, be it in one."""
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


@dataclass(frozen=True)
class Part:
    """A run of consecutive bytes of one object; all replicas share the same `data` object.

    `number` counts from 1, `offset` is the position of the first byte, `last` marks the object's last part.
    """

    number: int
    offset: int
    data: bytes | memoryview
    last: bool

    @cached_property
    def md5(self) -> bytes:
        """The MD5 of `data` (16 bytes), computed once for all replicas."""
        return hashlib.md5(self.data, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a writer needs to know before the first byte.

    Parameters
    ----------
    size
        Bytes, None for a stream of unknown length.
    part_size
        Bytes of every part but the last.
    metadata
        Lower-case ASCII user metadata to store with the object, where the backend can.
    mtime_ns, mode
        The source's modification time and permission bits, for backends that keep them; None for a stream.
    create_only
        `commit` raises `ConflictError` when the name exists: atomically where `Capabilities.conditional_create` is
        True, otherwise after a stat.
    ask_first
        False when the caller has queried the store just now: a `create_only` writer need not spend a request on
        another stat. The write stays conditional wherever the condition costs nothing.
    is_new
        The name did not exist when the store was last asked, so a wrong object may be removed without loss.
    replaces
        The ETag of the object to replace: where the service has that condition, `commit` raises `ConflictError`
        when another object has the name by now.
    replaces_version
        The version of that object, where the service keeps versions.
    keep_replaced
        Keep what `commit` replaces, where the store can, until `ObjectWriter.release`: it may have to come back.
    conditional
        Only the object that `replaces` and `replaces_version` name may be replaced: where the service knows no
        condition and keeps versions, these tell afterwards whether another one came in between.
    """

    size: int | None
    part_size: int = DEFAULT_PART_SIZE
    metadata: Mapping[str, str] = field(default_factory=dict)
    mtime_ns: int | None = None
    mode: int | None = None
    create_only: bool = False
    ask_first: bool = True
    is_new: bool = False
    replaces: str | None = None
    replaces_version: str | None = None
    keep_replaced: bool = False
    conditional: bool = False

    @property
    def record_id(self) -> str | None:
        """The id in `metadata` under which the caller stores the record of an object of several parts."""
        return self.metadata.get(RECORD_FIELD)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of store can do.

    Parameters
    ----------
    conditional_create
        `create_only` is atomic, also against other writers.
    wants_md5
        Writers use `Part.md5`, so it is worth computing beside the other hashes.
    removes_versions
        Removing an object also removes its older versions, which would otherwise be billed.
    content_etags
        Which ETags depend on the content alone, so that two such stores list the same ETag for the same content:
        ``"single"``: of objects stored in one request; ``"all"``: also of objects stored in equal parts.
    is_shared
        The location is the same storage from every machine; a path is not.
    metadata_limit
        Bytes of user metadata that an object can carry; 0: none, so an object's record lies beside it.
    locks
        `ObjectStore.locked` excludes other processes.
    keeps_replaced
        A writer may be able to put back what its `commit` replaced.
    removes_many
        `ObjectStore.remove_many` makes fewer requests than one removal for each object, and looks at each object
        before it removes it.
    """

    conditional_create: bool = False
    wants_md5: bool = False
    removes_versions: bool = False
    content_etags: Literal["none", "single", "all"] = "none"
    is_shared: bool = False
    metadata_limit: int = 0
    locks: bool = False
    keeps_replaced: bool = False
    removes_many: bool = False


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a store can find out about its backend beyond the objects; None: not known.

    Parameters
    ----------
    clock_ahead
        Seconds by which the backend's clock is ahead of this machine's, to about a second.
    keeps_versions
        Whether the backend keeps, and bills, older versions of replaced and removed objects.
    uploads, oldest_upload
        Unfinished multipart uploads (of the first 1,000), and the start of the oldest in epoch seconds.
    expires
        Days after which the backend's own lifecycle rules delete objects, one per rule; empty without such a rule.
    free, total
        Bytes.
    access
        What to check when the backend denies access.
    unknown
        By field name, why the field is not known.
    """

    clock_ahead: float | None = None
    keeps_versions: bool | None = None
    uploads: int | None = None
    oldest_upload: float | None = None
    expires: tuple[int, ...] | None = None
    free: int | None = None
    total: int | None = None
    access: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Orphan:
    """What an interrupted write of fsbackup left behind, for example after a kill or a power cut.

    Parameters
    ----------
    name
        Identifies it in its store; never the name of an object.
    started
        When the write started, or its last change where only that is known, in epoch seconds.
    size
        Bytes it occupies; None where the backend does not report them.
    description
        What it is, for people.
    """

    name: str
    started: float
    size: int | None
    description: str


class ObjectWriter(ABC):
    """Writes one object into one backend. Nothing is visible under the name before `commit`.

    The caller is one task, which may run up to `concurrency` calls of `write` at once. It calls `write` for every
    part, then `commit`; on any failure, `abort`.
    """

    #: How many `write` calls may run at once; with 1 the parts come in order.
    concurrency: int = 1
    #: What the service calls the upload of an object of several parts, as soon as there is one, where there is a
    #: note in the place of the object's record, which the caller writes over before `commit`; `abort` removes
    #: either. See `WritePlan.record_id`.
    upload_id: str | None = None

    @abstractmethod
    async def write(self, part: Part) -> None:
        """Write one part. Calls the `on_progress` of `ObjectStore.writer` as its bytes move."""

    @abstractmethod
    async def commit(self, metadata: Mapping[str, str] | None = None) -> ObjectStat:
        """Make the object visible under its name, durably, and confirm it; every part has been written.

        `metadata` is added to that of the plan, over fields of the same name, if the object has one part and the
        store keeps user metadata; metadata of an object of several parts is sent before the first part.

        Returns what the backend reports of the stored object after the last byte. When the response to the
        committing call is lost, finds out whether the object was stored.

        Raises
        ------
        ConflictError
            With `create_only`, when the name exists.
        IntegrityError
            When size or checksum of the stored object differs from what was sent; nothing wrong stays visible.
        BackendError
            For any other failure of the backend.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Remove what was written (after `commit`: do nothing); completes also when cancelled meanwhile.

        Raises nothing but that cancellation, at its end: what cannot be removed is logged.
        """

    def revoke(self) -> bool:
        """Cancel the write, and return whether what has the name is known to be, and to stay, what it was.

        Asked after `commit` failed, or was cancelled. Returns at once, also while a call still runs.
        """
        return False

    async def can_roll_back(self) -> bool:
        """Return whether what `commit` stored is there, and `rollback` would show again what it replaced."""
        return False

    async def rollback(self) -> None:  # noqa: B027 - most backends keep no older version
        """Undo `commit` where the store kept what it replaced; otherwise do nothing.

        What another writer stored since is left alone.
        """

    async def release(self) -> None:  # noqa: B027 - most backends keep nothing
        """Let go of what `WritePlan.keep_replaced` kept; raises nothing. `rollback` does nothing after that."""

    async def copy(self) -> None:  # noqa: B027 - most have nothing to do
        """Of a writer that `ObjectStore.copier` returned: copy all that may be copied before `commit`.

        Raises
        ------
        IntegrityError
            When the bytes that were copied are not those of the ETag.
        """

    #: Whether `reread` works, so that slower replicas of a stream can be served from this one.
    can_reread: bool = False

    async def reread(self, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """Return bytes already written, also after `commit`; None where that is not possible."""
        return None


@dataclass(slots=True)
class PassedOver:
    """What a listing passes over: entries of other programs, which are no objects.

    Parameters
    ----------
    count
        How many there are; a directory is one.
    names
        The first few.
    """

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.names) < _NAMED:
            self.names.append(name)

    def plus(self, other: PassedOver) -> PassedOver:
        """Return both together."""
        return PassedOver(self.count + other.count, [*self.names, *other.names][:_NAMED])


#: The `ObjectStore.place_id` where there is nothing, not even an empty directory.
NO_PLACE = (0, 0)


class ObjectStore(ABC):
    """The objects of one backend.

    Parameters
    ----------
    name
        The backend's name, as in results, logs and errors.
    timeout
        Longest time in seconds without a byte moved.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    #: Seconds beyond `timeout` after which a call that does not even fail is abandoned.
    hard_timeout_margin: ClassVar[float] = 5.0
    #: Makes sure that this is the place that it was; set by `fsbackup.engine.marker`, None where nothing does.
    guard: object | None = None

    def __init__(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = name
        self.timeout = timeout

    @property
    def hard_timeout(self) -> float:
        """Seconds that one call without progress reports may take."""
        return self.timeout + self.hard_timeout_margin

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which this machine's clock was ahead of the service's at its last answer, None if unknown."""
        return None

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""

    def address(self, name: str) -> str:
        """Return where an object is, in full: the same text from every store at the same place."""
        return f"{self.location.rstrip('/')}/{name}"

    @property
    def identity(self) -> str:
        """What answers or does not answer as one: the same text for all objects and from every process.

        An endpoint, bucket and credential; a path. It has no secret in it.
        """
        return self.location

    def place_id(self) -> tuple[int, int] | None:
        """Return what tells the place from another one at the same location, as the last call saw it; no I/O.

        None where nothing does, or nothing was called yet. `NO_PLACE` where nothing is there.
        """
        return None

    def keep_place(self, place: tuple[int, int] | None) -> None:  # noqa: B027 - most cannot tell places apart
        """Write from now on only to the place of this `place_id`; with None or `NO_PLACE` to any."""

    @property
    @abstractmethod
    def filesystem(self) -> Any:
        """The fsspec filesystem of this backend, created on first use."""

    @abstractmethod
    async def stat(self, name: str) -> ObjectStat | None:
        """Return the properties of `name`, None only when the backend answers that there is no such key."""

    @abstractmethod
    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> bytes:
        """Return the bytes from `start` up to, not including, `end` (None: to the last).

        Exactly `end - start` bytes, fewer only where the object ends before `end`; b"" when `start` is at or
        after the object's end or not before `end`. A store that sees the bytes arrive calls `on_progress` with 0
        at the start of each attempt and then with the number of new bytes; other stores never call it.

        Raises
        ------
        ObjectNotFoundError
            When there is no such key.
        """

    async def read_buffers(
        self,
        name: str,
        start: int,
        end: int,
        *,
        on_progress: Callable[[int], None] | None = None,
        buffers: Buffers | None = None,  # noqa: ARG002 - most read into new memory
    ) -> list[bytes]:
        """Return the bytes of `read` as the buffers in which they arrived, which saves joining them.

        With `buffers` in memory of these, where the store can.
        """
        return [await self.read(name, start, end, on_progress=on_progress)]

    async def stat_and_read(
        self, name: str, end: int, *, on_progress: Callable[[int], None] | None = None
    ) -> tuple[ObjectStat, list[bytes]] | None:
        """Return what `stat` returns, and the bytes before `end` as `read_buffers` does; None as `stat`.

        By default two calls; of one object in any case where a store makes it one request.
        """
        stat = await self.stat(name)
        return None if stat is None else (stat, await self.read_buffers(name, 0, end, on_progress=on_progress))

    @abstractmethod
    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        """Return a writer for one object, without I/O. It calls `on_progress(bytes)` on the loop as bytes move."""

    def copier(
        self,
        name: str,  # noqa: ARG002 - most copy nothing themselves
        plan: WritePlan,  # noqa: ARG002
        origin: ObjectStore,  # noqa: ARG002
        stat: ObjectStat,  # noqa: ARG002
        etag: str,  # noqa: ARG002
    ) -> ObjectWriter | None:
        """Return a writer to which nobody writes: it has the service itself copy an object of the store `origin`.

        It stores only bytes of which the service says that they are those of `etag` (see `content_etag`), in parts
        of the plan's size. None where the two stores are not at one place that can do so.
        """
        return None

    def shares_place(self, origin: ObjectStore) -> bool:  # noqa: ARG002 - most copy nothing themselves
        """Tell whether `copier` may copy from another store."""
        return False

    @abstractmethod
    def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        """Yield every object whose name starts with the text `prefix` and sorts after `start_after`.

        Each once, in ascending order of the names' UTF-8 bytes (``a.b`` comes before ``a/b``), streaming. Raises
        when any part cannot be listed: a listing is complete or an error. Temp files of unfinished writes are left
        out; fsbackup's own records under ``.fsbackup/`` are yielded only when `prefix` starts with that.
        """

    def list_counting(self, prefix: str, start_after: str, passed_over: PassedOver) -> AsyncIterator[ObjectStat]:
        """As `list`; what it leaves out because operating systems leave it everywhere is added to `passed_over`.

        By default a store leaves nothing out.
        """
        del passed_over
        return self.list(prefix, start_after)

    async def list_level(self, prefix: str = "", limit: int | None = None) -> AsyncIterator[ObjectStat]:
        """Yield what lies directly below `prefix`, which ends with a slash unless it is empty.

        These are objects; and for all names that go on with a segment and a slash one entry, whose name ends
        with that slash. In the order of `list`. With a `limit` there are at most so many, and at least one where
        there is any. By default it is made from `list`.
        """
        after: str | None = ""
        last, repeated, count = "", 0, 0
        while after is not None:
            names, after = self.list(prefix, after), None
            async with aclosing(cast("AsyncGenerator[ObjectStat, None]", names)):
                async for stat in names:
                    head, slash, _ = stat.name.removeprefix(prefix).partition("/")
                    name = f"{prefix}{head}/" if slash else stat.name
                    repeated = repeated + 1 if name == last else 0
                    if repeated == _SKIP_AFTER:
                        after = name + _LAST_NAME
                        break
                    if not repeated:
                        last, count = name, count + 1
                        yield ObjectStat(name, 0) if slash else stat
                        if count == limit:
                            return

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Remove exactly this one object, durably; a missing one is success. Never expands patterns."""

    async def remove_version(self, stat: ObjectStat) -> None:
        """Remove the object that `stat`, made just now, describes, and what is older under its name.

        Another object that has the name by now stays where the service can remove one version and no other; by
        default it is removed too.

        Raises
        ------
        ConflictError
            When another object has the name, and stays.
        """
        await self.remove(stat.name)

    async def remove_many(self, removals: Sequence[ObjectStat | str]) -> Sequence[FsbackupError | None]:
        """Remove many objects: each name as `remove` does, each `ObjectStat` as `remove_version` does.

        Returns one result for each, in their order: None, or why the object is still there or may be.
        """

        async def remove_one(removal: ObjectStat | str) -> FsbackupError | None:
            try:
                await (self.remove(removal) if isinstance(removal, str) else self.remove_version(removal))
            except FsbackupError as error:
                return error
            return None

        return await map_some(remove_one, removals, _REMOVALS)

    @asynccontextmanager
    async def locked(self, name: str) -> AsyncIterator[None]:  # noqa: ARG002 - most have no locks
        """Hold the backend's own lock on `name` against other processes, where it has such locks.

        Raises
        ------
        BackendUnavailableError
            When another process holds it for `timeout` seconds.
        """
        yield

    async def replace_metadata(self, stat: ObjectStat, metadata: Mapping[str, str]) -> ObjectStat:
        """Give the object that `stat` describes other user metadata, in one atomic step; its bytes stay.

        Raises
        ------
        ConflictError
            When another object has its name by now.
        NotImplementedError
            When the store keeps no user metadata.
        """
        raise NotImplementedError

    async def put(self, name: str, data: bytes, *, create_only: bool = False) -> ObjectStat:
        """Store a small object in one call."""
        plan = WritePlan(size=len(data), create_only=create_only)
        writer = self.writer(name, plan, lambda _: None)
        try:
            await writer.write(Part(1, 0, data, last=True))
            return await writer.commit()
        except BaseException:
            await writer.abort()
            raise

    async def orphans(self, older_than: float) -> AsyncIterator[Orphan]:  # noqa: ARG002 - most leave none
        """Yield what interrupted writes of fsbackup left and nothing has changed for `older_than` seconds.

        Only what is certainly fsbackup's own; an age longer than any pause of a live write spares live writes.
        """
        return
        yield  # makes this an asynchronous generator

    async def delete_orphan(self, orphan: Orphan) -> None:  # noqa: B027 - most leave none
        """Remove what `orphans` yielded; one that is already gone is success.

        Raises
        ------
        ValueError
            When `orphan` is not one of this kind of store.
        """

    async def info(self) -> BackendInfo:
        """Return what the backend reports about itself. Raises nothing for what it does not report."""
        return BackendInfo()

    async def close(self) -> None:  # noqa: B027 - most backends hold nothing to close
        """Release connections. The store can be used again afterwards."""


def timeout_error(store: ObjectStore, operation: str, key: str) -> BackendUnavailableError:
    """Return the error for a store whose call did not return within `hard_timeout`."""
    return BackendUnavailableError(
        f"no answer for {store.timeout:g} s",
        backend=store.name,
        operation=operation,
        key=key,
        hint=f"check {store.location}",
    )
