"""Large files are written past the page cache where the disk takes that, and as usual where it does not."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage
from fsbackup.stores.local import atomic_file
from tests.replication.rig import content

#: More than is kept in the page cache here, of several parts, and no whole number of blocks.
LARGE = 9 << 20
DATA = content(LARGE + 4097)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(atomic_file, "_FLUSH", LARGE)
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


def _is_direct(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int]]:
    """Return what was written: whether past the page cache, and how many bytes."""
    seen = []
    pwrite = os.pwrite

    def recorded(descriptor: int, data: Any, offset: int) -> int:
        count = pwrite(descriptor, data, offset)
        seen.append((_is_direct(descriptor), count))
        return count

    monkeypatch.setattr(os, "pwrite", recorded)
    return seen


def _fail_direct(monkeypatch: pytest.MonkeyPatch, number: int, every: int) -> None:
    """Fail every so many of the writes past the page cache."""
    pwrite, count = os.pwrite, iter(range(1, 1000))

    def failing(descriptor: int, data: Any, offset: int) -> int:
        if _is_direct(descriptor) and next(count) % every == 0:
            raise OSError(number, os.strerror(number))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)


def _no_direct_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not on this filesystem")
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refusing)


def test_a_large_file_passes_the_page_cache_by(
    tmp_path: Path, source: Path, writes: list[tuple[bool, int]]
) -> None:
    """All but the end, which is no whole block; nothing of a small file."""
    if not hasattr(os, "O_DIRECT") or not _takes_direct(tmp_path):
        pytest.skip("this filesystem has no direct writes")
    disk = LocalStorage(tmp_path / "base")
    assert disk.upload(source, "large")
    assert (tmp_path / "base" / "large").read_bytes() == DATA
    assert sum(count for direct, count in writes if direct) == len(DATA) - len(DATA) % 4096
    writes.clear()
    source.write_bytes(DATA[: LARGE - 1])
    assert disk.upload(source, "small")
    assert not any(direct for direct, _ in writes)


def _takes_direct(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "refuse",
    [
        _no_direct_open,
        lambda patch: _fail_direct(patch, errno.EINVAL, 1),
        lambda patch: _fail_direct(patch, errno.EINVAL, 2),
        lambda patch: patch.delattr(os, "O_DIRECT", raising=False),
    ],
    ids=["open", "all writes", "some writes", "system"],
)
def test_a_disk_that_refuses_gets_the_bytes_as_usual(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None]
) -> None:
    refuse(monkeypatch)
    assert LocalStorage(tmp_path / "base").upload(source, "large")
    assert (tmp_path / "base" / "large").read_bytes() == DATA


def test_a_full_disk_is_no_refusal(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for another reason is an error, and leaves neither a file nor a descriptor."""
    disk = LocalStorage(tmp_path / "base")
    assert disk.upload(source, "warm")
    descriptors = len(os.listdir("/proc/self/fd"))
    _fail_direct(monkeypatch, errno.ENOSPC, 2)
    assert not disk.upload(source, "large")
    assert not list((tmp_path / "base").glob("*large*"))
    assert not list((tmp_path / "base").glob("*.fsbackup-tmp"))
    assert len(os.listdir("/proc/self/fd")) == descriptors
