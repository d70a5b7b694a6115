"""fsspec's own suites: copy, get, put, open and pipe, with every replica in order, one down, one lying."""

from __future__ import annotations

from pathlib import Path
import secrets

import fsspec.tests.abstract as abstract
import pytest
import yaml
from fsbackup.filesystem import FsbackupFileSystem


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, tmp_path_factory):
        base = tmp_path_factory.mktemp("x")
        config = {"version": 1, "backends": {n: {"type": "local", "path": str(base / n)} for n in "ab"}, "replication": {"pair": {"backends": ["a", "b"]}}}
        (base / "c.yaml").write_text(yaml.safe_dump(config))
        return FsbackupFileSystem(config=str(base / "c.yaml"))

    @pytest.fixture
    def fs_path(self, fs):
        return f"pair/{secrets.token_hex(4)}"

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self):
        return True

class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass
class TestGet(abstract.AbstractGetTests, Fixtures):
    pass
class TestPut(abstract.AbstractPutTests, Fixtures):
    pass
class TestOpen(abstract.AbstractOpenTests, Fixtures):
    pass
class TestPipe(abstract.AbstractPipeTests, Fixtures):
    pass
