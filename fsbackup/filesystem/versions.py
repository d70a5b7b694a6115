"""Versions of objects, and a cache of the newest: consumers look at a file several times before they read it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from fsbackup.aio import retrieve_error
from fsbackup.engine import locks
from fsbackup.engine.download import ObjectReader, locate, newer_version
from fsbackup.errors import IntegrityError, NoHealthyReplicaError
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
    """The newest versions by path, for `TTL` seconds. Used on the I/O loop only."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, Version] = OrderedDict()
        #: Look-ups in progress.
        self._lookups: dict[_Lookup, asyncio.Task[Version]] = {}

    async def find(
        self, opened: OpenSet, path: str, key: str, *, check_data: bool = True, at_once: bool = False
    ) -> Version:
        """Return the newest version, cached or from the replicas; calls at the same time share one look-up.

        Without `check_data`, the records suffice, which saves one request per replica. What is read `at_once` from
        its beginning is found as `locate` says, unless the path was looked at before: its blocks may be cached.

        Raises
        ------
        ObjectNotFoundError
            When every replica reports that the key is absent or deleted.
        IntegrityError, NoHealthyReplicaError
            When nothing about it is proven.
        """
        wanted = _Lookup(path, check_data, at_once, locks.changes(opened.replica_set.stores, key))
        cached = self._versions.get(path)
        if cached is not None and wanted.is_answered_by(cached):
            return cached
        lookup = wanted if cached is None else wanted._replace(at_once=False)
        task = self._running(wanted._replace(check_data=True, at_once=False)) or self._running(lookup)
        if task is None:
            task = asyncio.create_task(self._look_up(opened, key, lookup))
            self._lookups[lookup] = task
            task.add_done_callback(lambda done: self._lookup_done(lookup, done))
        return await asyncio.shield(task)

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

    async def _look_up(self, opened: OpenSet, key: str, lookup: _Lookup) -> Version:
        path, check_data, at_once, changes = lookup
        reader = await locate(
            opened.replica_set, key, selector=opened.selector, with_data=check_data, at_once=at_once
        )
        opened.warn_once(reader.log.failed)
        version = Version(path, reader, time.monotonic() + TTL, check_data, changes, all_asked=not at_once)
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
