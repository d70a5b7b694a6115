"""zarr's own suites over `fsbackup://`: its store tests, and its stateful machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.core.buffer import Buffer, cpu
from zarr.storage import FsspecStore
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, TOP, ConfiguredSet
from tests.matrix import matrix
from tests.servers.faults import Corrupt, Drop, Fault

_QUICK = settings(
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
#: How many sequences of steps a machine tries; each of the first one's takes seconds.
HIERARCHIES, STORES = [2, matrix(4)], 4
#: What zarr leaves out for a store that is only asynchronous.
_SYNCHRONOUS = (
    "test_get_sync",
    "test_get_sync_missing",
    "test_set_sync",
    "test_delete_sync",
    "test_delete_sync_missing",
)


@cache
def _asynchronous(configured: ConfiguredSet) -> FsbackupFileSystem:
    return configured.fs(asynchronous=True)


class TestStore(StoreTests[FsspecStore, cpu.Buffer]):
    store_cls = FsspecStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, configured: ConfiguredSet) -> dict[str, Any]:
        return {"fs": _asynchronous(configured), "path": f"{ROOT}/{secrets.token_hex(4)}"}

    @pytest.fixture
    async def store(self, store_kwargs: dict[str, Any]) -> FsspecStore:
        return FsspecStore(**store_kwargs)

    async def set(self, store: FsspecStore, key: str, value: Buffer) -> None:
        await store.fs._pipe_file(f"{store.path}/{key}", value.to_bytes())

    async def get(self, store: FsspecStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes(await store.fs._cat_file(f"{store.path}/{key}"))

    def test_store_repr(self, store: FsspecStore) -> None:
        assert ROOT in str(store.path)

    def test_store_supports_writes(self, store: FsspecStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: FsspecStore) -> None:
        assert store.supports_listing


for _name in _SYNCHRONOUS:
    setattr(TestStore, _name, None)


class KeyStore(FsspecStore):
    """Counts only files as keys: the state machine draws keys below other keys, and a directory is no key."""

    async def exists(self, key: str) -> bool:
        return bool(await self.fs._isfile(f"{self.path}/{key}"))


@pytest.fixture(params=["rotten", *map(matrix, ["whole", "dying"])])
def trouble(request: pytest.FixtureRequest, flat: ConfiguredSet) -> Iterator[ConfiguredSet]:
    """Yield a site one of whose replicas dies in every answer, or has a wrong byte in every object."""
    if request.param == "whole":
        yield flat
        return
    fault: Fault = Drop(answer_bytes=1) if request.param == "dying" else Corrupt()
    flat.proxies["moto0"].add(fault, on="get", key=flat.data("moto0", TOP))
    yield flat
    assert fault.hits


@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("examples", HIERARCHIES)
def test_hierarchy_machine(trouble: ConfiguredSet, examples: int) -> None:
    """Whatever zarr does to groups and arrays, it finds what its model has."""
    fs = trouble.fs(asynchronous=True)
    run_state_machine_as_test(
        cast(Any, lambda: ZarrHierarchyStateMachine(FsspecStore(fs=fs, path=f"{ROOT}/{secrets.token_hex(4)}"))),
        settings=settings(_QUICK, max_examples=examples),
    )


@pytest.mark.matrix
def test_store_machine(trouble: ConfiguredSet) -> None:
    """Whatever zarr does to keys, it finds what its model has."""
    fs = trouble.fs(asynchronous=True)
    run_state_machine_as_test(
        cast(Any, lambda: ZarrStoreStateMachine(KeyStore(fs=fs, path=f"{ROOT}/{secrets.token_hex(4)}"))),
        settings=settings(_QUICK, max_examples=STORES),
    )
