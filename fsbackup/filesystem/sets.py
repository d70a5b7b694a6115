"""The replication sets behind the paths: opened from the configuration when first needed, once per process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.selector import ReplicaSelector
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.replication.storage import ReplicatedStorage

log = logging.getLogger("fsbackup.storage")


@dataclass(frozen=True)
class OpenSet:
    """One replication set.

    Parameters
    ----------
    storage
        Writes go to it.
    turns
        Which replica short reads ask first, learnt over all objects.
    outages
        Which replicas do not answer: whoever looks at many objects waits for one once.
    """

    storage: ReplicatedStorage
    selector: ReplicaSelector = field(default_factory=ReplicaSelector)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    _warned: set[str] = field(default_factory=set)

    def warn_once(self, failed: Mapping[str, FsbackupError]) -> None:
        """Log which replicas are done without, each once until it is back."""
        for name, error in failed.items():
            if name not in self._warned:
                log.warning("reads go on without %s: %s", name, error)
        self._warned.clear()
        self._warned.update(failed)

    @cached_property
    def budget(self) -> MemoryBudget:
        """Shared by all uploads of known size."""
        return MemoryBudget(self.storage.replica_set.memory)

    @property
    def targets(self) -> ReplicaSet:
        """The replicas."""
        return self.storage.replica_set


class Sets:
    """The sets of one configuration file.

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

        self._forget_after_fork()
        if self._names is None:
            self._names = tuple(load_config(self._config).replication)
        return self._names

    def __getitem__(self, name: str) -> OpenSet:
        """Return a set by its name.

        Raises
        ------
        ConfigError
            When there is none of this name, or the configuration is wrong.
        """
        self._forget_after_fork()
        if name in self._open:
            return self._open[name]
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ConfigError(
                f"fsbackup://{name}: {self._config} has no replication set of this name",
                hint=f"a path is fsbackup://SET/KEY; there are: {known}",
            )
        with self._lock:
            if name not in self._open:
                self._open[name] = OpenSet(ReplicatedStorage.from_config(self._config, name, errors="raise"))
        return self._open[name]

    def _forget_after_fork(self) -> None:
        """A forked child opens its own: connections and locks are not its parent's."""
        if self._pid != os.getpid():
            self._lock, self._open, self._pid = threading.Lock(), {}, os.getpid()
