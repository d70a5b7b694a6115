"""An upload over stores in memory, of many small parts, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from fsbackup import ReplicatedStorage
from fsbackup.engine.results import Report
from fsbackup.stores.base import ObjectStore
from tests.replication.memory import MemoryStore, backend
from tests.replication.raw_replicas import manifest_name
from tests.replication.rig import content

KEY = "stream/dump"
PART = 64 * 1024
PARTS = 32
#: A file of at most 1 MiB is read in one go, so this is larger.
DATA = content(PARTS * PART - 7)
SLOTS = 6
#: The threads that read and check parts, one for each of four lanes, may let go a moment after the window did.
MOST_ALIVE = SLOTS + 4


class Upload(threading.Thread):
    """One `replicate` in a thread of its own, over stores in memory."""

    def __init__(self, stores: Sequence[ObjectStore], source: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        own = {"part_size": PART, "memory": SLOTS * PART, "min_copies": 1, **options}
        self._set = ReplicatedStorage([backend(store) for store in stores], **own)
        self._source = source
        self._report: Report | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._report = self._set.replicate(self._source, KEY)
        except Exception as error:  # noqa: BLE001 - raised again by `report`
            self._error = error

    def report(self) -> Report:
        """Wait for the end and return the report."""
        self.join(30)
        if self._error is not None:
            raise self._error
        assert self._report is not None, "the upload hangs"
        return self._report

    def failed(self) -> list[str]:
        """Wait for the end and return the names of the replicas that failed."""
        return [name for name, result in self.report().replicas.items() if not result.ok]


def has_it(store: MemoryStore) -> bool:
    """Tell whether a store holds the whole object and its manifest."""
    return store.objects.get(KEY) == DATA and manifest_name(KEY) in store.objects
