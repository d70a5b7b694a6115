"""The replication sets of a configuration, each opened at its first use, once per process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fsbackup.engine.breaker import Outage, outage
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.lazy import cached_property
from fsbackup.replication.storage import ReplicatedStorage

if TYPE_CHECKING:
    from fsbackup.config import Config, Snapshot

log = logging.getLogger("fsbackup.storage")


@dataclass(frozen=True)
class OpenSet:
    """One replication set, and what is known of its replicas over all objects.

    Parameters
    ----------
    storage
        The set itself.
    selector
        Chooses the replica of a short read by the latencies so far.
    """

    storage: ReplicatedStorage
    selector: ReplicaSelector = field(default_factory=ReplicaSelector)
    _warned: set[str] = field(default_factory=set)

    def warn_once(self, failed: Mapping[str, FsbackupError]) -> None:
        """Log the replicas that failed, each once until it answers again."""
        for name, error in failed.items():
            if name not in self._warned:
                log.warning("reads continue without %s: %s", name, error)
        self._warned.clear()
        self._warned.update(failed)

    @cached_property
    def budget(self) -> MemoryBudget:
        """The memory that all uploads of known size share."""
        return MemoryBudget(self.storage.replica_set.memory)

    @property
    def replica_set(self) -> ReplicaSet:
        """The stores and the rule of the set."""
        return self.storage.replica_set


class OpenSets:
    """The sets of one configuration, by name, as it was at one moment.

    Parameters
    ----------
    source
        The configuration; or one set that is open already, which is then the only one.
    """

    def __init__(self, source: Snapshot | ReplicatedStorage) -> None:
        self._source = source
        self._is_wrong = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._open: dict[str, OpenSet] = {}

    @property
    def source(self) -> str:
        """What the sets are of, for people."""
        name = self._source.name
        return f"the set {name!r}" if isinstance(self._source, ReplicatedStorage) else name

    @property
    def option(self) -> Any:
        """The option `config` that opens the same sets; with secrets in it only what nobody can pickle."""
        source = self._source
        return (source.origin or source) if isinstance(source, ReplicatedStorage) else source.option

    @property
    def place(self) -> str:
        """The same text for all filesystems of one configuration in this process."""
        if isinstance(self._source, ReplicatedStorage):
            return self.identity
        return self._source.name if isinstance(self._source.origin, str) else self._source.fingerprint

    @property
    def identity(self) -> str:
        """A text without secrets that is the same in every process that opens the same sets."""
        if isinstance(self._source, ReplicatedStorage):
            return f"{self._source!r} {[each.location for each in self._source.backends.values()]}"
        try:
            return self._source.identity
        except ConfigError:
            return self.source

    def is_outdated(self, now: Snapshot) -> bool:
        """Tell whether these sets are of the same file as `now`, and of what it said before."""
        source = self._source
        if isinstance(source, ReplicatedStorage) or not isinstance(now.origin, str):
            return False
        return source.origin == now.origin and source.fingerprint != now.fingerprint

    def again(self) -> OpenSets:
        """Return the sets of what the configuration says now."""
        return OpenSets(self._source if isinstance(self._source, ReplicatedStorage) else self._source.again())

    def names(self) -> tuple[str, ...]:
        """Return the names of all sets."""
        if isinstance(self._source, ReplicatedStorage):
            return (self._source.name,)
        return tuple(self._config(self._source).replication)

    def __getitem__(self, name: str) -> OpenSet:
        """Return a set by its name.

        Raises
        ------
        ConfigError
            When there is no set of this name, or the configuration is wrong.
        """
        self._reset_after_fork()
        if name in self._open:
            return self._open[name]
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ConfigError(
                f"fsbackup://{name}: no replication set {name!r} in {self.source}",
                hint=f"use fsbackup://SET/KEY with one of its sets: {known}",
            )
        with self._lock:
            if name not in self._open:
                self._open[name] = OpenSet(self._storage(name))
        return self._open[name]

    def _storage(self, name: str) -> ReplicatedStorage:
        source = self._source
        if isinstance(source, ReplicatedStorage):
            return source
        origin = source.option if isinstance(source.option, str) else None
        return ReplicatedStorage.from_config(self._config(source), name, errors="raise", origin=origin)

    def _config(self, source: Snapshot) -> Config:
        """Return the configuration; one that was wrong is read again, because it may have been corrected."""
        if self._is_wrong:
            source = self._source = source.again()
        self._is_wrong = True
        config = source.config
        self._is_wrong = False
        return config

    def health(self) -> dict[str, dict[str, Outage | None]]:
        """Return what is known of the replicas of each set that was used, by set and backend."""
        return {
            name: {store.name: outage(store) for store in opened.replica_set.stores}
            for name, opened in self._open.copy().items()
        }

    def _reset_after_fork(self) -> None:
        """Drop what a forked child inherited: connections and locks belong to its parent."""
        if self._pid != os.getpid():
            self._lock, self._open, self._pid = threading.Lock(), {}, os.getpid()
