"""Send the parts of one source to many replicas at once; each replica succeeds or fails for itself.

`FanOut` is what an upload (`upload.py`) and a repair's copy (`copy.py`) have in common. It owns the `PartBuffer`,
starts one `ReplicaUpload` per replica, and collects one `ReplicaResult` for each. A subclass decides which
replicas take part, and says which manifest is written when the source has been read to its end.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fsbackup import __version__, events
from fsbackup.aio import run_all
from fsbackup.engine import breaker, records
from fsbackup.engine.malloc import tune_malloc
from fsbackup.engine.parts import Consumer, PartBuffer, max_in_flight, slot_count
from fsbackup.engine.records import ReplicaState
from fsbackup.engine.replica_upload import ReplicaUpload
from fsbackup.engine.results import ReplicaResult
from fsbackup.engine.source import Source
from fsbackup.errors import FsbackupError, SourceError, as_backend_error
from fsbackup.record import Manifest
from fsbackup.sizing import part_count
from fsbackup.stores.base import RECORD_FIELD, ObjectStore

#: Runs the upload of a replica that answers later, with its consumer of parts.
Join = Callable[[Consumer], Coroutine[Any, Any, None]]


class FanOut(ABC):
    """One source on its way to many replicas.

    Parameters
    ----------
    operation
        Name for the log and the results.
    key, source
        The object.
    part_size, memory
        Bytes per part, and the most bytes of parts in memory.
    replicas
        The state of every replica that may take part.
    started
        The loop's time at which the operation began.
    on_read
        Called with the number of bytes of each part when it is read for the first time.
    """

    def __init__(
        self,
        operation: str,
        key: str,
        source: Source,
        *,
        part_size: int,
        memory: int,
        replicas: Sequence[ReplicaState],
        started: float,
        on_read: Callable[[int], None] | None = None,
    ) -> None:
        self._operation = operation
        self._key = key
        self._source = source
        self._part_size = part_size
        self._replicas = list(replicas)
        self._started = started
        self._results: dict[str, ReplicaResult] = {}
        if source.size is None or source.size > part_size:
            tune_malloc()
        self._uploads = 0
        self._slots = slot_count(memory, part_size, len(replicas))
        md5 = any(replica.store.capabilities.wants_md5 for replica in replicas)
        self._parts = PartBuffer(source, part_size, slots=self._slots, md5=md5, on_read=on_read)

    @abstractmethod
    def _manifest(self) -> Manifest:
        """Return the manifest to write; called after the source was read to its end, maybe for each replica."""

    @property
    def _seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    def _ordered_results(self) -> list[ReplicaResult]:
        return [self._results[replica.store.name] for replica in self._replicas]

    async def _send(self, uploads: Sequence[ReplicaUpload], late: Sequence[Join] = ()) -> None:
        """Run all uploads to their end, also those of the replicas that answer while the others are under way.

        Raises
        ------
        SourceError
            When the source cannot be read to its end; nothing is committed then.
        """
        # All consumers exist before the first part is read: a part stays in memory for those that still want it.
        consumers = [self._parts.add_consumer() for _ in uploads]
        absent = [self._parts.add_consumer(absent=True) for _ in late]
        self._uploads = len(uploads) + len(late)
        pairs = zip(uploads, consumers, strict=True)
        joins = [join(consumer) for join, consumer in zip(late, absent, strict=True)]
        await run_all([*(self._run_upload(*pair) for pair in pairs), *joins])

    async def _run_upload(self, upload: ReplicaUpload, consumer: Consumer) -> None:
        clock = asyncio.get_running_loop().time
        started, error = clock(), None
        try:
            await upload.run(self._parts, consumer, self._workers(upload), self._manifest)
        except BaseException as raised:
            await upload.abort()
            # A failure of one replica is its result, never that of another; one of the source concerns all.
            if isinstance(raised, SourceError) or not isinstance(raised, Exception):
                raise
            error = raised
        breaker.record(upload.store, error, clock() - started, writing=True)
        self._finish(upload.replica, error, sent=upload.bytes_sent)

    def _workers(self, upload: ReplicaUpload) -> int:
        """Return how many parts `upload` may have in flight: no more than the object has."""
        most = max_in_flight(upload.writer.concurrency, self._uploads, self._slots)
        return most if self._source.size is None else min(most, part_count(self._source.size, self._part_size))

    def _finish(
        self, replica: ReplicaState, error: Exception | None, *, sent: int = 0, already: bool = False
    ) -> None:
        """Record and log the result of one replica."""
        name = replica.store.name
        failure = None if error is None else as_backend_error(error, name, self._key)
        self._results[name] = replica_result(
            self._operation, name, self._key, failure, self._seconds, size=self._size, sent=sent, already=already
        )

    def _finish_remaining(self, error: FsbackupError) -> None:
        """Record a failure of the whole operation for every replica that has no result yet."""
        for replica in self._replicas:
            if replica.store.name not in self._results:
                self._finish(replica, error)

    @property
    def _size(self) -> int | None:
        """Bytes of the object, None while unknown."""
        return self._source.size


def replica_result(
    operation: str,
    store: str,
    key: str,
    error: FsbackupError | None,
    seconds: float,
    *,
    size: int | None = None,
    sent: int = 0,
    already: bool = False,
) -> ReplicaResult:
    """Log the outcome of one replica and return it as a result."""
    events.log_outcome(operation, store, key, size=size, seconds=seconds, error=error)
    return ReplicaResult(store, error is None, seconds, sent, already, error)


def object_metadata(store: ObjectStore, mtime_ns: int | None, sha256: str | None) -> dict[str, str]:
    """Return the user metadata of a data object that are known before its manifest is.

    The fsbackup version, the mtime, the SHA-256 where it is known, and where manifests lie inside the data objects
    the id under which the manifest of an object of several parts will lie.
    """
    metadata = {"fsbackup-version": __version__}
    if mtime_ns is not None:
        metadata["mtime"] = f"{mtime_ns / 1e9:.9f}"
    if sha256:
        metadata["sha256"] = sha256
    if records.has_records_inside(store):
        metadata[RECORD_FIELD] = records.new_id()
    return metadata
