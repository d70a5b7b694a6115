"""fsspec's own suites (copy, get, put, open, pipe): every replica in order, one down for reads, one rotten.

What they hold is which names a call finds and makes: the default run tries that on two directories, and leaves the
sites with servers, which the other suites run at, to the matrix.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from fsspec.tests import abstract
from fsspec.tests.abstract.common import GLOB_EDGE_CASES_TESTS

from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, ConfiguredSet, make_configured_set
from tests.matrix import matrix, sparing

EVERY_SITE = ["local+s3", "s3+s3", "down+s3", "rotten+local"]
#: What patterns match, in which ways of copying: by default the last, and deepest, way of each pattern.
EDGE_CASES = GLOB_EDGE_CASES_TESTS["argvalues"]
EACH_PATTERN = {case[0]: case for case in EDGE_CASES}


@pytest.fixture(scope="module")
def local_site(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ConfiguredSet]:
    """Return a site of two directories for all tests of this file."""
    with make_configured_set("local+local", tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture(scope="module", params=["local+local", *map(matrix, EVERY_SITE)])
def configured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConfiguredSet]:
    """Return a site of each kind in turn; tests share it, and each uses its own directory."""
    with make_configured_set(request.param, tmp_path_factory.mktemp("site"), request.getfixturevalue) as made:
        yield made


@pytest.fixture(scope="module")
def edge_cases(local_site: ConfiguredSet) -> str:
    """Return the directory that edge cases copy from and leave as it is: it is made once for all."""
    make = abstract.AbstractFixtures()._glob_edge_cases_files
    source: str = make(local_site.shared, _join, f"{ROOT}/{secrets.token_hex(4)}")
    return source


def _join(*parts: str) -> str:
    return "/".join(parts)


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What the suites run on."""

    @pytest.fixture
    def fs(self, configured: ConfiguredSet) -> FsbackupFileSystem:
        return configured.shared

    @pytest.fixture
    def fs_path(self) -> str:
        return f"{ROOT}/{secrets.token_hex(4)}"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return _join


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    test_copy_glob_edge_cases = None


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    test_get_glob_edge_cases = None


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    test_put_glob_edge_cases = None


@pytest.mark.matrix
class TestGlobEdgeCases(Fixtures):
    """What patterns match is decided by fsspec, before any replica is asked: two directories are enough for it.

    A copy finds names here and makes names here; with a get or a put, one of the two is the local filesystem's.
    """

    @pytest.fixture
    def configured(self, local_site: ConfiguredSet) -> ConfiguredSet:
        return local_site

    @pytest.fixture
    def fs_glob_edge_cases_files(self, edge_cases: str) -> str:
        return edge_cases

    @pytest.mark.parametrize(GLOB_EDGE_CASES_TESTS["argnames"], sparing(EDGE_CASES, EACH_PATTERN.values()))
    def test_copy_glob_edge_cases(
        self,
        path: str,
        recursive: bool,
        maxdepth: int | None,
        expected: list[str],
        fs: FsbackupFileSystem,
        fs_join: Callable[..., str],
        fs_glob_edge_cases_files: str,
        fs_target: str,
        fs_sanitize_path: Callable[[str], str],
    ) -> None:
        suite, places = abstract.AbstractCopyTests(), (fs, fs_join, fs_glob_edge_cases_files, fs_target)
        suite.test_copy_glob_edge_cases(path, recursive, maxdepth, expected, *places, fs_sanitize_path)

    test_get_glob_edge_cases = pytest.mark.matrix(abstract.AbstractGetTests.test_get_glob_edge_cases)
    test_put_glob_edge_cases = pytest.mark.matrix(abstract.AbstractPutTests.test_put_glob_edge_cases)


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass
