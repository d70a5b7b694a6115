"""The sites that the filesystem tests run at."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.pool import Pool

import pytest

from fsbackup.filesystem import versions
from tests.filesystem.configured_set import ConfiguredSet, make_configured_set
from tests.matrix import matrix

#: Every replica in order, one down for reads, one that gives wrong bytes.
EACH = ["local+s3", *map(matrix, ["local+local", "s3+s3", "down+s3", "rotten+local"])]


@pytest.fixture(scope="module", params=EACH)
def configured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConfiguredSet]:
    """Return a site of each kind in turn; tests share it, and each uses its own directory."""
    with make_configured_set(request.param, tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture
def disks(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ConfiguredSet]:
    """Return a new site of two directories."""
    with make_configured_set("local+local", tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture
def flat(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ConfiguredSet]:
    """Return a new site of two buckets in which an object may lie below another one's name."""
    with make_configured_set("moto+moto", tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture
def buckets(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ConfiguredSet]:
    """Return a new site of two buckets at different servers."""
    with make_configured_set("s3+s3", tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture(scope="session")
def other_process() -> Iterator[Pool]:
    """Return one process, to which this one's memory is unknown, as that of another program."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


@pytest.fixture
def elsewhere(other_process: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """Return another process that is sure to change an object while a version of it is cached here."""
    monkeypatch.setattr(versions, "TTL", 600.0)
    return other_process


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of pyarrow's and zarr's suites."""
    from pyarrow.conftest import groups

    for mark in (*groups, "gpu"):
        config.addinivalue_line("markers", f"{mark}: required by a test of a suite that is not ours")
