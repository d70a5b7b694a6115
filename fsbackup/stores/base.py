"""The object I/O that a backend provides: stat, read a range, write, list, remove. All of it asynchronous.

Everything above (uploads, downloads, manifests, replication) is written once against these classes. They
speak of *names*, the encoded form of keys (see `fsbackup.keys`), and know nothing of manifests.

What every implementation must keep
-----------------------------------
- A name is the old object or the new one at every instant, also across a crash; never a part.
- `ObjectNotFoundError` (or None from `stat`) only for the backend's own clear "no such key". An outage, a
  refusal, a missing bucket or a missing base directory is another `BackendError`.
- Errors are `BackendError`s and carry backend, operation, name and a hint; secrets never appear in them.
- Retries are the implementation's own, one layer, for transient failures only, and within `timeout`.
- `timeout` is the longest silence in seconds (no byte moved), never a limit on the total.
- Cancellation cleans up: temp files and unfinished uploads of the operation are gone afterwards.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from fsbackup.errors import BackendUnavailableError
from fsbackup.sizing import DEFAULT_PART_SIZE

#: Seconds of silence after which a backend counts as unavailable.
DEFAULT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a backend says of one object.

    Parameters
    ----------
    name
        Its name in the backend.
    size
        Bytes.
    modified
        Epoch seconds, None where the backend does not say.
    etag, version_id
        The backend's own, without quotes; None where it has no such thing.
    metadata
        The tags stored with it; empty in listings.
    """

    name: str
    size: int
    modified: float | None = None
    etag: str | None = None
    version_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A run of consecutive bytes of one object; the same `data` object is handed to every replica.

    `number` counts from 1, `offset` is where it starts, `last` says that the object ends with it.
    """

    number: int
    offset: int
    data: bytes
    last: bool

    @cached_property
    def md5(self) -> bytes:
        """The MD5 of `data` (16 bytes), computed once however many replicas ask."""
        return hashlib.md5(self.data, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a writer is told before the first byte.

    Parameters
    ----------
    size
        Bytes, None for a stream of unknown length.
    part_size
        Bytes of every part but the last.
    metadata
        Lower-case ASCII tags to store with the object, where the backend can.
    mtime_ns, mode
        The source's modification time and permission bits, for backends that keep them; None for a stream.
    create_only
        Refuse with `ConflictError` at `commit` when the name exists, atomically where
        `Capabilities.conditional_create` says so, otherwise by asking first.
    fresh
        The name did not exist when the store was asked, so that a wrong object may be removed without loss.
    """

    size: int | None
    part_size: int = DEFAULT_PART_SIZE
    metadata: Mapping[str, str] = field(default_factory=dict)
    mtime_ns: int | None = None
    mode: int | None = None
    create_only: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as facts to decide by.

    Parameters
    ----------
    conditional_create
        `create_only` is atomic even against other writers.
    wants_md5
        Writers use `Part.md5`, so it is worth computing beside the other hashes.
    removes_versions
        Removing an object also removes its older versions (they would be billed otherwise).
    content_etags
        Which ETags are made of the content alone, so that two such stores list the same for the same content:
        ``"single"``: of objects stored in one request; ``"all"``: also of those stored in equal parts.
    everywhere
        The location is the same place from every machine; a path is not.
    """

    conditional_create: bool = False
    wants_md5: bool = False
    removes_versions: bool = False
    content_etags: Literal["none", "single", "all"] = "none"
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a store can find out about its place beyond its objects; None: not known.

    Parameters
    ----------
    clock_ahead
        Seconds that the place's clock is ahead of ours, to about a second.
    conditional_create
        Whether the place itself refuses to create a name that exists, tried just now.
    keeps_versions
        Whether what is replaced or removed is kept, and billed, as an older version.
    uploads, oldest_upload
        Unfinished multipart uploads (of the first 1,000), and when the oldest was begun in epoch seconds.
    expires
        Days after which the place's own rules delete objects, one per rule; empty when there is no such rule.
    free, total
        Bytes.
    access
        What to check when the place does not let us in.
    unknown
        Why a fact is not known, by its name.
    """

    clock_ahead: float | None = None
    conditional_create: bool | None = None
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
    """What a write of ours left behind that never ended, as after a kill or a power cut.

    Parameters
    ----------
    name
        What the store calls it: no object's name.
    started
        When it was begun, or last moved where that is all there is to know, in epoch seconds.
    size
        Bytes that it takes; None where the backend does not say.
    what
        What it is, for people.
    """

    name: str
    started: float
    size: int | None
    description: str


class ObjectWriter(ABC):
    """One object on its way into one backend. Nothing is visible under its name before `commit`.

    Used by one task at a time, except that up to `concurrency` calls of `write` may run at once.
    """

    #: How many `write` calls may run side by side; with 1 the parts come in order.
    concurrency: int = 1

    @abstractmethod
    async def write(self, part: Part) -> None:
        """Take one part. Calls the `moved` callback of `ObjectStore.writer` as its bytes move."""

    @abstractmethod
    async def commit(self) -> ObjectStat:
        """Make the object visible under its name, durably, and confirm it; every part has been written.

        Returns what the backend itself says of the stored object after the last byte. Where the answer of
        the committing call was lost, settles by asking whether the object is there.

        Raises
        ------
        ConflictError
            With `create_only`, when the name exists.
        IntegrityError
            When size or checksum of what was stored is not what was sent; nothing wrong stays visible.
        BackendError
            For what else the backend did.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Throw away what was written (a no-op after `commit`), also when cancelled meanwhile.

        Never raises anything but that cancellation, at its end: what stays is logged.
        """

    async def rollback(self) -> None:  # noqa: B027 - most backends keep no older version
        """Take back what `commit` stored, where the store kept what was there before; otherwise do nothing.

        For a writer that finds out that another one was at the same name at the same time.
        """

    #: Whether `reread` works, so that a slower replica of a stream can be served from what this one wrote.
    can_reread: bool = False

    async def reread(self, offset: int, length: int) -> bytes | None:  # noqa: ARG002
        """Return bytes already written, also after `commit`; None where that cannot be done."""
        return None


class ObjectStore(ABC):
    """One backend's objects.

    Parameters
    ----------
    name
        The backend's name, as in results, logs and errors.
    timeout
        Longest silence in seconds.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    #: Seconds beyond `timeout` after which a call that does not even fail is abandoned.
    hard_timeout_margin: ClassVar[float] = 5.0

    def __init__(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.name = name
        self.timeout = timeout

    @property
    def hard_timeout(self) -> float:
        """Seconds that a single call may take in which nothing tells that bytes move."""
        return self.timeout + self.hard_timeout_margin

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the objects are, for people: a path or URL without secrets."""

    @property
    @abstractmethod
    def filesystem(self) -> Any:
        """The fsspec filesystem that this backend wraps, made on first use."""

    @abstractmethod
    async def stat(self, name: str) -> ObjectStat | None:
        """Return what the backend says of `name`, None only when it says that there is no such key."""

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

        A store that can tell how its bytes arrive calls `moved` with 0 when it begins, and then with their number
        as they come; one that cannot never calls it.

        Exactly `end - start` bytes, fewer only where the object ends before `end`; b"" when `start` is at or
        after the object's end or not before `end`. Raises `ObjectNotFoundError` when there is no such key.
        """

    async def read_buffers(
        self, name: str, start: int, end: int, *, on_progress: Callable[[int], None] | None = None
    ) -> list[bytes]:
        """Return what `read` does, in the pieces in which it came: whoever can take them so saves a copy."""
        return [await self.read(name, start, end, on_progress=on_progress)]

    @abstractmethod
    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> ObjectWriter:
        """Return a writer for one object, without I/O. `moved(bytes)` is called on the loop as bytes leave."""

    @abstractmethod
    def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        """Yield every object whose name starts with the text `prefix` and sorts after `start_after`.

        In ascending order of the names' UTF-8 bytes (so ``a.b`` comes before ``a/b``), each once, streaming.
        Raises when any of it cannot be listed: a listing is complete or an error. Temp files of unfinished
        writes are left out; our own records under ``.fsbackup/`` are yielded when `prefix` asks for them
        and left out otherwise.
        """

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Remove exactly this one object, durably; a missing one is success. Never expands patterns."""

    async def put(self, name: str, data: bytes, *, create_only: bool = False) -> ObjectStat:
        """Store a small object in one go."""
        plan = WritePlan(size=len(data), create_only=create_only)
        writer = self.writer(name, plan, lambda _: None)
        try:
            await writer.write(Part(1, 0, data, last=True))
            return await writer.commit()
        except BaseException:
            await writer.abort()
            raise

    def orphans(self, older_than: float) -> AsyncIterator[Orphan]:  # noqa: ARG002 - most leave none
        """Yield what writes of ours left behind and nothing has moved in for `older_than` seconds.

        Only what is certainly ours; and an age longer than any pause of a live write keeps those safe.
        """
        return _nothing()

    async def delete_orphan(self, orphan: Orphan) -> None:  # noqa: B027 - most leave none
        """Remove what `leftovers` found; nothing when it is gone already. `ValueError` for anything else."""

    async def info(self, probe: str | None = None) -> BackendInfo:  # noqa: ARG002 - most backends have nothing to try
        """Find out about the place. Never raises for what it does not say; may replace the object `probe`."""
        return BackendInfo()

    async def close(self) -> None:  # noqa: B027 - most backends hold nothing to close
        """Release connections. The store can be used again afterwards."""


async def _nothing() -> AsyncIterator[Orphan]:
    for leftover in list[Orphan]():
        yield leftover


def timeout_error(store: ObjectStore, operation: str, key: str) -> BackendUnavailableError:
    """Return the error for a store that did not even fail in time."""
    return BackendUnavailableError(
        f"no answer for {store.timeout:g} s",
        backend=store.name,
        operation=operation,
        key=key,
        hint=f"check {store.location}",
    )
