"""A site: one replication set in a configuration file, as a user of `fsbackup://` has it, over real backends."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fsbackup import ReplicatedStorage, Stages
from fsbackup.filesystem import FsbackupFileSystem
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Corrupt, Drop, FaultProxy, Status, fault_proxy

#: The set, and the directory in it that all test objects lie in.
SET, TOP = "pair", "t"
ROOT = f"{SET}/{TOP}"

#: The replicas of each kind of site, in reading order: a directory or a server, and the fault of the server.
KINDS: dict[str, tuple[str, ...]] = {
    "local+local": ("local", "local"),
    "moto+moto": ("moto", "moto"),
    "local+s3": ("local", "seaweedfs"),
    "s3+s3": ("moto", "seaweedfs"),
    "down+s3": ("moto down", "seaweedfs"),
    "rotten+local": ("moto rotten", "local"),
    "dying+s3": ("moto dying", "seaweedfs"),
    "local+local+s3": ("local", "local", "moto"),
    "r2+b2": ("strict_r2", "strict_b2"),
}


@dataclass(eq=False)
class ConfiguredSet:
    """A configuration with one set.

    Attributes
    ----------
    config
        The file.
    bases
        The directories of its local replicas, by backend name.
    proxies
        In front of its servers, by backend name.
    prefix
        Of all names in the buckets; each backend has its own below it.
    secrets
        Values that may occur nowhere but in the configuration.
    backends
        What the configuration says of each backend, but for its timeout.
    min_copies
        Of the set; 0 for all.
    append
        Whether the set allows that.
    timeouts
        Of backends that have another one than the usual.
    """

    config: Path
    prefix: str
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    min_copies: int = 0
    append: bool = False
    timeouts: dict[str, float] = field(default_factory=dict)
    bases: dict[str, Path] = field(default_factory=dict)
    proxies: dict[str, FaultProxy] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def fs(self, **options: Any) -> FsbackupFileSystem:
        """Return a new filesystem with empty caches."""
        self.write()
        return FsbackupFileSystem(config=self.config, skip_instance_cache=True, **options)

    @cached_property
    def shared(self) -> FsbackupFileSystem:
        """One filesystem for tests that do not depend on its caches: making S3 clients takes a while."""
        return self.fs()

    def storage(self) -> ReplicatedStorage:
        """Return the set itself."""
        return ReplicatedStorage.from_config(self.config, SET, errors="raise")

    @property
    def options(self) -> dict[str, str]:
        """What `storage_options` holds."""
        return {"config": str(self.config)}

    def write(self) -> None:
        """Write the configuration; a backend whose requests always fail does not try for long."""
        backends = {name: dict(each) for name, each in self.backends.items()}
        for name, proxy in self.proxies.items():
            backends[name]["timeout"] = self.timeouts.get(name, proxy.patience(10.0))
        copies = self.min_copies or len(backends)
        rule = {"backends": list(backends), "min_copies": copies, "append": self.append}
        config = {"version": 1, "backends": backends, "replication": {SET: rule}}
        new = self.config.with_suffix(".new")
        new.touch(mode=0o600)  # it has secrets, and a file that others can read is warned of
        new.write_text(yaml.safe_dump(config))
        new.replace(self.config)  # a thread may be reading it

    def data(self, backend: str, key: str) -> str:
        """Return a part of the name of an object's data in a bucket, which is no part of its manifest's name."""
        return f"{self.prefix}/{backend}/{key}"


def overwrite(config: Path, path: str, data: bytes, stages: Stages | None = None) -> None:
    """Store bytes under a path of the set, over what is there: for another process (`elsewhere`)."""
    storage = ReplicatedStorage.from_config(config, SET, errors="raise")
    assert storage.replicate(io.BytesIO(data), path.removeprefix(f"{SET}/"), overwrite=True, stages=stages)


@contextmanager
def make_configured_set(kind: str, tmp: Path, server: Callable[[str], S3Endpoint]) -> Iterator[ConfiguredSet]:
    """Yield a new site; `server` gives the server of a name."""
    configured = ConfiguredSet(tmp / "fsbackup.yaml", f"f{secrets.token_hex(6)}")
    backends = configured.backends
    with ExitStack() as stack:
        for number, what in enumerate(KINDS[kind]):
            name, _, trouble = what.partition(" ")
            backend = f"{name}{number}"
            if name == "local":
                configured.bases[backend] = tmp / backend
                backends[backend] = {"type": "local", "path": str(tmp / backend)}
                continue
            proxy = configured.proxies[backend] = stack.enter_context(fault_proxy(server(name)))
            backends[backend] = {**proxy.endpoint.backend, "prefix": f"{configured.prefix}/{backend}"}
            configured.secrets.append(proxy.endpoint.secret_access_key)
            if trouble == "down":
                proxy.add(Status(403, "AccessDenied"), on="get", key=configured.data(backend, TOP))
            elif trouble == "rotten":
                proxy.add(Corrupt(), on="get", key=configured.data(backend, TOP))
            elif trouble == "dying":
                proxy.add(Drop(answer_bytes=100_000), on="get", key=configured.data(backend, TOP), first=2)
        configured.write()
        yield configured
