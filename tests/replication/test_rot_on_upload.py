"""An upload of what is stored already heals a copy whose bits flipped; judged on plain files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from tests.replication.memory import MemoryStore, backend

KEY = "db/orders.sql"
DATA = b"the right bytes" * 1000


def flip(path: Path) -> None:
    """Change a byte and nothing that the file system shows."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(7)
        file.write(b"?")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "orders.sql"
    path.write_bytes(DATA)
    return path


def test_upload_to_one_backend(tmp_path: Path, source: Path) -> None:
    """True means that the bytes are right there."""
    disk = LocalStorage(tmp_path / "disk")
    assert disk.upload(str(source), KEY)
    flip(tmp_path / "disk" / KEY)
    assert disk.upload(str(source), KEY)
    assert (tmp_path / "disk" / KEY).read_bytes() == DATA
    assert disk.download(KEY, str(tmp_path / "restored"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_replicate_to_a_set(tmp_path: Path, source: Path, overwrite: bool) -> None:
    """The rotten copy is written again, the other one is not."""
    store = ReplicatedStorage([LocalStorage(tmp_path / name, name=name) for name in "ab"], min_copies=1)
    assert store.replicate(source, KEY)
    flip(tmp_path / "b" / KEY)
    report = store.replicate(source, KEY, overwrite=overwrite)
    assert (report.status, report.replicas["a"].already, report.replicas["b"].already) == ("complete", True, False)
    assert (tmp_path / "b" / KEY).read_bytes() == DATA
    assert store.verify(deep=True).status == "complete"


class SlowStore(MemoryStore):
    """A store without ETags on a slow line: each of its reads takes half of its patience."""

    hard_timeout_margin = 0.0

    async def read(self, name: str, start: int = 0, end: int | None = None, **options: object) -> bytes:
        if name == KEY:
            await asyncio.sleep(self.timeout / 2)
        return await super().read(name, start, end, **options)


def test_what_is_read_back_may_take_longer_than_one_request(tmp_path: Path) -> None:
    """A large object on a slow line is no silence."""
    store = SlowStore("slow", timeout=1.0)
    path = tmp_path / "large"
    path.write_bytes(bytes(24 << 20))
    report = ReplicatedStorage([backend(store)], errors="raise").replicate(path, KEY)
    assert report.status == "complete", report.as_dict()
