"""Versions of objects, and a cache of the newest: consumers look at a file several times before they read it.

A version from the cache may have been replaced by another process within the last `TTL` seconds. Who wants bytes
at once takes it from there all the same, and goes on with the newer one where no replica has it any more
(`cat_file`). Nobody can do so who was told a size: the reader of a file that was opened, and whoever asks for an
info, by which Dask cuts a file into parts. So these ask whether it is still the newest (`now`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fsbackup.aio import retrieve_error
from fsbackup.engine import locks
from fsbackup.engine.beginning import LENGTH
from fsbackup.engine.download import ObjectReader, locate, newer_version
from fsbackup.errors import IntegrityError, NoHealthyReplicaError
from fsbackup.filesystem.caches import BlockCache, block_key
from fsbackup.filesystem.sets import OpenSet

#: Seconds for which a version counts as the newest without a request.
TTL = 1.0
#: Versions cached; the hashes of one take up to about 2 MB.
_MAX_CACHED = 64
#: The errors of a read whose version no replica can give (any more).
UNREADABLE = (IntegrityError, NoHealthyReplicaError)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one object.

    Parameters
    ----------
    path
        Set and key.
    reader
        Reads its bytes.
    fresh_until
        On the monotonic clock.
    data_checked
        Whether the data was found beside the records. Otherwise only a read shows whether it is there.
    changes
        Those of this process (`locks.changes`) when the replicas were asked.
    all_asked
        All replicas were asked, not only as many as prove what is read.
    """

    path: str
    reader: ObjectReader
    fresh_until: float
    data_checked: bool = True
    changes: int = 0
    all_asked: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return self.reader.plan.size

    @property
    def modified(self) -> float | None:
        """When this version was created, in epoch seconds; for an object without manifest when it was stored.

        None where a store reports no time.
        """
        manifest = self.reader.manifest
        return manifest.created_timestamp if manifest else self.reader.plan.modified

    @property
    def is_proven(self) -> bool:
        """Whether it has a manifest, and was the newest for sure."""
        return self.reader.manifest is not None and self.reader.proven

    def info(self) -> dict[str, Any]:
        """Return what fsspec calls the file's info."""
        manifest = self.reader.manifest
        info = {
            "name": self.path,
            "size": self.size,
            "type": "file",
            "sha256": manifest.sha256 if manifest else None,
            "generation": manifest.generation if manifest else None,
            "proven": self.reader.proven,
            "replicas": [store.name for store in self.reader.plan.stores],
        }
        return with_time(info, self.modified)


def with_time(info: dict[str, Any], modified: float | None) -> dict[str, Any]:
    """Return an info with ``mtime``, where the time is known: consumers take what is there for a number."""
    return info if modified is None else {**info, "mtime": modified}


class _Lookup(NamedTuple):
    """A question for a version: which path, and what is to be found out."""

    path: str
    check_data: bool
    at_once: bool
    #: Those of this process to the object so far.
    changes: int

    def is_answered_by(self, version: Version) -> bool:
        return (
            time.monotonic() < version.fresh_until
            and (version.data_checked or not self.check_data)
            and (version.all_asked or self.at_once)
            and version.changes == self.changes
        )


class VersionCache:
    """The newest versions by path, for `TTL` seconds. Used on the I/O loop only.

    Parameters
    ----------
    blocks
        Tells which objects' bytes need not come.
    """

    def __init__(self, blocks: BlockCache) -> None:
        self._blocks = blocks
        self._versions: OrderedDict[str, Version] = OrderedDict()
        #: Look-ups in progress.
        self._lookups: dict[_Lookup, asyncio.Task[Version]] = {}

    async def find(
        self,
        opened: OpenSet,
        path: str,
        key: str,
        *,
        check_data: bool = True,
        at_once: bool = False,
        now: bool = False,
    ) -> Version:
        """Return the newest version, cached or from the replicas; calls at the same time share one look-up.

        Without `check_data`, the records suffice, which saves one request per replica. What is read `at_once` from
        its beginning is found as `locate` says, unless the path was looked at before: its blocks may be cached.
        With `now`, it is the newest that there is when this is called: the replicas are asked, of a cached version
        only a quorum.

        Raises
        ------
        ObjectNotFoundError
            When every replica reports that the key is absent or deleted.
        IntegrityError, NoHealthyReplicaError
            When nothing about it is proven.
        """
        wanted = _Lookup(path, check_data, at_once, locks.changes(opened.replica_set.stores, key))
        cached = self._versions.get(path)
        known = cached if cached is not None and wanted.is_answered_by(cached) else None
        if known is not None and not now:
            return known
        known = known if known is not None and known.is_proven else None
        lookup = wanted._replace(at_once=at_once and self._brings_bytes(cached, known))
        task = None
        if not now:  # one that is under way may have had its answers before
            task = self._running(wanted._replace(check_data=True, at_once=False)) or self._running(lookup)
        if task is None:
            task = asyncio.create_task(self._look_up(opened, key, lookup, known))
            self._lookups[lookup] = task
            task.add_done_callback(lambda done: self._lookup_done(lookup, done))
        return await asyncio.shield(task)

    def _brings_bytes(self, cached: Version | None, known: Version | None) -> bool:
        """Return whether the first bytes, asked for with the record, spare a read of what was looked at before.

        They do of a whole object. Of a longer one its reader asks for the rest in any case, or for other bytes.
        """
        manifest = known.reader.manifest if known is not None else None
        if manifest is None:
            return cached is None
        return manifest.size <= LENGTH and block_key(manifest, 0) not in self._blocks

    def _running(self, lookup: _Lookup) -> asyncio.Task[Version] | None:
        """Return the look-up that is under way; one that a forked child has from its parent never ends there."""
        task = self._lookups.get(lookup)
        return task if task is not None and task.get_loop() is asyncio.get_running_loop() else None

    async def newer(self, opened: OpenSet, version: Version) -> Version | None:
        """Return the version that replaced one that cannot be read, None when there is no other.

        Raises
        ------
        ObjectNotFoundError, NoHealthyReplicaError
            When the object is gone.
        """
        self.discard(version.path)
        changes = locks.changes(opened.replica_set.stores, version.reader.plan.key)
        reader = await newer_version(opened.replica_set, version.reader)
        if reader is None:
            return None
        return self._add(Version(version.path, reader, time.monotonic() + TTL, changes=changes))

    def discard(self, path: str) -> None:
        """Remove a path that was written to or deleted; a look-up in progress is not cached either."""
        self._versions.pop(path, None)
        for lookup in [each for each in self._lookups if each[0] == path]:
            del self._lookups[lookup]

    def clear(self) -> None:
        """Remove everything."""
        self._versions.clear()
        self._lookups.clear()

    async def _look_up(self, opened: OpenSet, key: str, lookup: _Lookup, known: Version | None) -> Version:
        path, check_data, at_once, changes = lookup
        before = None if known is None else known.reader
        reader = await locate(
            opened.replica_set,
            key,
            selector=opened.selector,
            with_data=check_data,
            at_once=at_once,
            known=before,
        )
        opened.warn_once(reader.log.failed)
        if known is not None and reader.manifest is known.reader.manifest:
            return replace(known, reader=reader)
        all_asked = known is not None or not at_once
        version = Version(path, reader, time.monotonic() + TTL, check_data, changes, all_asked)
        if self._lookups.get(lookup) is asyncio.current_task():
            self._add(version)
        return version

    def _lookup_done(self, lookup: _Lookup, task: asyncio.Task[Version]) -> None:
        if self._lookups.get(lookup) is task:
            del self._lookups[lookup]
        retrieve_error(task)  # all callers may have been cancelled

    def _add(self, version: Version) -> Version:
        self._versions[version.path] = version
        self._versions.move_to_end(version.path)
        while len(self._versions) > _MAX_CACHED:
            self._versions.popitem(last=False)
        return version
