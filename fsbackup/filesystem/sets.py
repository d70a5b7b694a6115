"""The replication sets of a configuration, each opened at its first use, once per process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fsbackup.engine.breaker import CircuitBreaker, Outage
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.replication.storage import ReplicatedStorage

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
    breaker
        Skips replicas that do not answer, so that only one object waits for each.
    """

    storage: ReplicatedStorage
    selector: ReplicaSelector = field(default_factory=ReplicaSelector)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
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
    """The sets of one configuration file, by name.

    Parameters
    ----------
    config
        Its path.
    """

    def __init__(self, config: str) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._names: tuple[str, ...] | None = None
        self._open: dict[str, OpenSet] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all sets."""
        from fsbackup.config import load_config

        self._reset_after_fork()
        if self._names is None:
            self._names = tuple(load_config(self._config).replication)
        return self._names

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
                f"fsbackup://{name}: no replication set {name!r} in {self._config}",
                hint=f"use fsbackup://SET/KEY with one of its sets: {known}",
            )
        with self._lock:
            if name not in self._open:
                self._open[name] = OpenSet(ReplicatedStorage.from_config(self._config, name, errors="raise"))
        return self._open[name]

    def health(self) -> dict[str, dict[str, Outage | None]]:
        """Return what is known of the replicas of each set that was used, by set and backend."""
        return {
            name: {store.name: opened.breaker.outage(store.name) for store in opened.replica_set.stores}
            for name, opened in self._open.copy().items()
        }

    def _reset_after_fork(self) -> None:
        """Drop what a forked child inherited: connections and locks belong to its parent."""
        if self._pid != os.getpid():
            self._lock, self._open, self._pid = threading.Lock(), {}, os.getpid()
