"""What to read and from which replicas (`ReadPlan`), and how the replicas fared (`ReadLog`)."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from fsbackup.engine.beginning import Beginning
from fsbackup.engine.replicas import DEFAULT_MEMORY, DEFAULT_STALL
from fsbackup.errors import FsbackupError, IntegrityError, NoHealthyReplicaError, combined_hint, summary
from fsbackup.record import Manifest
from fsbackup.stores.base import ObjectStore

log = logging.getLogger("fsbackup.storage")


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """One version of an object, and which replicas to read it from.

    Parameters
    ----------
    key, size
        The object; size in bytes.
    manifest
        Proves the blocks. None when no replica has one: then the bytes are unverified, only lengths are checked.
    stores
        The replicas that have it according to their records and are first in the reading order.
    reserve
        Groups of replicas to read from only what no replica before can deliver: those of later groups in the
        reading order, and last those whose records say otherwise, or that did not answer.
    memory
        Bytes that may be held at once: being read, or read and not yet consumed.
    stall
        Seconds without a byte after which a chunk is requested from another replica.
    modified
        When an object without a manifest was stored, epoch seconds; None for others, or when it is unknown.
    beginning
        The first bytes, where they come with the record of one of `stores`.
    """

    key: str
    size: int
    manifest: Manifest | None
    stores: tuple[ObjectStore, ...]
    reserve: tuple[tuple[ObjectStore, ...], ...] = ()
    memory: int = DEFAULT_MEMORY
    stall: float = DEFAULT_STALL
    modified: float | None = None
    beginning: Beginning | None = field(default=None, compare=False)


@dataclass(slots=True)
class ReadLog:
    """How the replicas of one object fared while it was read.

    Parameters
    ----------
    key
        The object.
    failed
        The last error of each replica that failed, by name.
    bytes_read
        Verified bytes by backend.
    """

    key: str
    failed: dict[str, FsbackupError] = field(default_factory=dict)
    bytes_read: Counter[str] = field(default_factory=Counter)

    def on_failover(self, store: ObjectStore, error: FsbackupError) -> None:
        """Record that `store` failed and another replica has to take over."""
        if store.name not in self.failed:
            log.warning("download of %s: failover from %s: %s", self.key, store.name, error)
        self.failed[store.name] = error

    def failure(self) -> FsbackupError:
        """Return the error for bytes that no replica could deliver."""
        corrupt = any(isinstance(error, IntegrityError) for error in self.failed.values())
        return (IntegrityError if corrupt else NoHealthyReplicaError)(
            f"no replica returned the right bytes: {summary(self.failed) or 'no replica has its data'}",
            operation="download",
            key=self.key,
            hint=combined_hint(self.failed),
        )
