"""A set of three replicas as the tests use it: a directory and two buckets, each with its independent eye."""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fsbackup import BackblazeB2Storage, CloudflareR2Storage, LocalStorage, ReplicatedStorage, S3Storage
from fsbackup.backends import SingleBackend
from tests.integration.cli_helpers import wait_until
from tests.replication.raw_replicas import MARKER, RawBucket, RawDisk, RawReplica, mark
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import FaultProxy, Hold, fault_proxy

MIB = 1 << 20
PART = 5 * MIB


@lru_cache(maxsize=16)
def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that no other seed gives."""
    return random.Random(f"{seed}/{size}").randbytes(size)


@dataclass(frozen=True)
class Places:
    """Where three replicas are, as something that can be sent to another process."""

    base: Path
    endpoints: dict[str, S3Endpoint]
    prefix: str
    #: Where the buckets have the records of their objects.
    records: Literal["inside", "beside"] = field(default="inside", kw_only=True)

    def backend(self, name: str, **options: Any) -> SingleBackend:
        """Return a new backend object for one of the places."""
        if name == "local":
            return LocalStorage(self.base, **options)
        return connect(name, self.endpoints[name], self.prefix, records=self.records, **options)

    def store(self, *, names: tuple[str, ...] = ("local", "r2", "b2"), **options: Any) -> ReplicatedStorage:
        """Return a replication set over the places; ten seconds of silence are a stall."""
        own = {"part_size": PART, "errors": "raise", **options}
        timeout = own.pop("timeout", 10.0)
        return ReplicatedStorage([self.backend(name, timeout=timeout) for name in names], **own)


@dataclass(frozen=True)
class ReplicaRig(Places):
    """Three replicas: ``local``, ``r2`` and ``b2``.

    Attributes
    ----------
    eyes
        What each really holds, by backend name.
    proxies
        In front of ``r2`` and ``b2``, where there are any.
    tmp
        A directory for sources and targets, outside all replicas.
    """

    raw_replicas: dict[str, RawReplica]
    proxies: dict[str, FaultProxy]
    tmp: Path

    def backend(self, name: str, **options: Any) -> SingleBackend:
        """Return a new backend object for a place; where requests always fail, it does not try for long."""
        if name in self.proxies and "timeout" in options:
            options["timeout"] = self.proxies[name].patience(options["timeout"])
        return super().backend(name, **options)

    @property
    def places(self) -> Places:
        """Only the places, to be sent to another process."""
        return Places(self.base, self.endpoints, self.prefix, records=self.records)

    def beside(self) -> ReplicaRig:
        """Return the same replicas, with the records beside the objects of the buckets, too."""
        return replace(self, records="beside")

    def file(self, data: bytes, name: str = "source.bin") -> Path:
        """Return a source file with this content."""
        path = self.tmp / name
        path.write_bytes(data)
        return path

    def settle(self) -> None:
        """Take all faults away, and wait until what is still on its way to the servers has arrived."""
        for proxy in self.proxies.values():
            proxy.clear()
            wait_idle(proxy)

    def clean(self, *keys: str) -> None:
        """Assert that nothing but these keys and their manifests is anywhere."""
        for name, raw in self.raw_replicas.items():
            wanted = {each for key in keys for each in (key, f".fsbackup/manifests/{key}")}
            assert raw.names() == wanted, name
            assert raw.unfinished() == [], name


def released_when_announced(rig: ReplicaRig, name: str, key: str, hold: Hold, other: Callable[[], object]) -> None:
    """Run something else that waits for what is held, which is released when that is announced on a replica."""
    held = len(rig.raw_replicas[name].announced(key))
    thread = threading.Thread(target=other)
    thread.start()
    wait_until(lambda: len(rig.raw_replicas[name].announced(key)) > held or not thread.is_alive())
    hold.release()
    thread.join(60)


def connect(role: str, endpoint: S3Endpoint, prefix: str, **options: Any) -> SingleBackend:
    """Return a backend of the role ``r2``, ``b2`` or ``s3`` (a service of which nothing is known) at a server."""
    common: dict[str, Any] = {
        "bucket": endpoint.bucket,
        "access_key_id": endpoint.access_key_id,
        "secret_access_key": endpoint.secret_access_key,
        "endpoint_url": endpoint.endpoint_url,
        "prefix": prefix,
        "ca_bundle": str(endpoint.ca_bundle) if endpoint.ca_bundle else None,
        **options,
    }
    if role == "r2":
        return CloudflareR2Storage(**common)
    if role == "s3":
        return S3Storage(region=endpoint.region, **common)
    return BackblazeB2Storage(region=endpoint.region, **common)


@contextmanager
def make_rig(r2: S3Endpoint, b2: S3Endpoint, tmp: Path, *, proxied: bool) -> Iterator[ReplicaRig]:
    """Yield three replicas that have nothing but their markers, below a new prefix of each server's bucket."""
    prefix = f"t{secrets.token_hex(6)}"
    tmp = tmp / "outside"
    tmp.mkdir()
    servers = {"r2": r2, "b2": b2}
    raw_replicas: dict[str, RawReplica] = {"local": RawDisk(tmp.parent / "base")}
    raw_replicas |= {name: RawBucket(server, f"{prefix}/") for name, server in servers.items()}
    for number, raw in enumerate(raw_replicas.values()):
        raw.put(MARKER, mark(number))
    with ExitStack() as stack:
        proxies = {name: stack.enter_context(fault_proxy(each)) for name, each in servers.items() if proxied}
        endpoints = {name: proxies[name].endpoint for name in proxies} or servers
        yield ReplicaRig(tmp.parent / "base", endpoints, prefix, raw_replicas, proxies, tmp)


def wait_idle(proxy: FaultProxy) -> None:
    """Wait until every request that the proxy was given has arrived or is lost."""
    wait_until(lambda: all(each.ended for each in proxy.requests))
