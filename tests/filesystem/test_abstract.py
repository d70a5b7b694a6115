"""fsspec's own suites (copy, get, put, open, pipe): every replica in order, one down for reads, one rotten."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from fsspec.tests import abstract

from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.site import ROOT, Site


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What the suites run on."""

    @pytest.fixture
    def fs(self, site: Site) -> FsbackupFileSystem:
        return site.shared

    @pytest.fixture
    def fs_path(self) -> str:
        return f"{ROOT}/{secrets.token_hex(4)}"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass
