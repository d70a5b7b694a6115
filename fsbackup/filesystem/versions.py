"""Which version of an object is read, remembered for a moment: one look at a file costs one manifest, not five."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fsbackup.engine.download import ObjectReader, locate, newer_version
from fsbackup.errors import IntegrityError, NoHealthyReplicaError
from fsbackup.filesystem.sets import OpenSet

#: Seconds for which an answer counts: consumers ask for the same file several times before they read it.
FRESH = 1.0
#: Versions remembered; the hashes of one take up to about 2 MB.
_MOST = 64


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one object.

    Parameters
    ----------
    path
        Set and key.
    reading
        Where its bytes come from.
    until
        On the monotonic clock, until when it may pass for the newest.
    seen
        Its data was seen beside its manifests; else only reading it tells.
    """

    path: str
    reader: ObjectReader
    until: float
    seen: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return self.reader.plan.size

    @property
    def modified(self) -> float | None:
        """When this version was made, epoch seconds; for an object without manifest when it was stored."""
        manifest = self.reader.manifest
        return datetime.fromisoformat(manifest.created_at).timestamp() if manifest else self.reader.plan.modified

    def info(self) -> dict[str, Any]:
        """Return what fsspec calls the file's info."""
        manifest = self.reader.manifest
        return {
            "name": self.path,
            "size": self.size,
            "type": "file",
            "mtime": self.modified,
            "sha256": manifest.sha256 if manifest else None,
            "generation": manifest.generation if manifest else None,
            "replicas": [store.name for store in self.reader.plan.stores],
        }


class VersionCache:
    """The versions seen a moment ago. Used on the I/O loop only."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Version] = OrderedDict()
        self._asking: dict[tuple[str, bool], asyncio.Task[Version]] = {}

    async def find(self, opened: OpenSet, path: str, key: str, *, unseen: bool = False) -> Version:
        """Return the newest version, asking the replicas unless somebody just did.

        One whose bytes are read anyhow may be `unseen`, which saves a request per replica.

        Raises
        ------
        ObjectNotFoundError
            When every replica says that there is no such key, or that it was deleted.
        IntegrityError, NoHealthyReplicaError
            When nothing proven can be said of it.
        """
        known = self._known.get(path)
        if known is not None and time.monotonic() < known.until and (known.seen or unseen):
            return known
        task = self._asking.get((path, True)) or self._asking.get((path, not unseen))
        if task is None:
            task = asyncio.create_task(self._ask(opened, path, key, see=not unseen))
            self._asking[path, not unseen] = task
            task.add_done_callback(lambda done: self._asked((path, not unseen), done))
        return await asyncio.shield(task)

    async def newer(self, opened: OpenSet, version: Version) -> Version | None:
        """Return the version to go on with after one that cannot be read (any more), None when there is no other.

        Raises
        ------
        ObjectNotFoundError, NoHealthyReplicaError
            When the object is gone by now.
        """
        self.forget(version.path)
        newer = await newer_version(opened.targets, version.reader)
        return self._remember(version.path, newer) if newer is not None else None

    def forget(self, path: str) -> None:
        """Ask again next time: it was written to or deleted."""
        self._known.pop(path, None)
        for seen in (True, False):
            self._asking.pop((path, seen), None)

    def forget_all(self) -> None:
        """Ask again for everything."""
        self._known.clear()
        self._asking.clear()

    async def _ask(self, opened: OpenSet, path: str, key: str, *, see: bool) -> Version:
        reading = await locate(
            opened.targets,
            key,
            breaker=opened.breaker,
            selector=opened.selector,
            with_data=see,
        )
        opened.warn_once(reading.log.failed)
        version = Version(path, reading, time.monotonic() + FRESH, seen=see)
        if self._asking.get((path, see)) is asyncio.current_task():
            self._keep(version)
        return version

    def _asked(self, which: tuple[str, bool], task: asyncio.Task[Version]) -> None:
        if self._asking.get(which) is task:
            del self._asking[which]
        # Whoever asked may have been cancelled, and then nobody else looks at how it ended.
        task.cancelled() or task.exception()

    def _remember(self, path: str, reading: ObjectReader) -> Version:
        version = Version(path, reading, time.monotonic() + FRESH)
        self._keep(version)
        return version

    def _keep(self, version: Version) -> None:
        self._known[version.path] = version
        self._known.move_to_end(version.path)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)


#: What a read of a version raises when its bytes cannot be had (any more).
UNREADABLE = (IntegrityError, NoHealthyReplicaError)
