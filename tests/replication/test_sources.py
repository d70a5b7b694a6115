"""Files, FIFOs and devices as sources: their errors are a `SourceError`, what was opened is closed once."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.engine.open_source import open_source
from fsbackup.engine.source import Source
from fsbackup.errors import SourceChangedError, SourceError
from fsbackup.loop import run

#: Of a file that is read after it was opened, in parts of this length, and of one that is read when it is opened.
LARGE, SMALL = 1 << 20, 3


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a file that is read after it was opened."""
    path = tmp_path / "large"
    path.write_bytes(bytes(LARGE))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a file that is read when it is opened."""
    path = tmp_path / "small"
    path.write_bytes(bytes(SMALL))
    return path


def store(tmp_path: Path) -> ReplicatedStorage:
    """Return a set of two disks."""
    return ReplicatedStorage([LocalStorage(tmp_path / name, name=name) for name in ("one", "two")], errors="raise")


def read(source: Source) -> None:
    """Read a source in one part."""
    run(source.next_part(LARGE, md5=False))


def test_what_cannot_be_opened_is_no_fault_of_the_backends(tmp_path: Path) -> None:
    """A socket cannot be opened as a file."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        with pytest.raises(SourceError, match=f"^{path}: cannot be read: No such device"):
            store(tmp_path).replicate(path, "key")


def test_a_file_that_fails_at_its_end_is_no_fault_of_the_backends(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once all of it was read, one more byte is asked for: a network filesystem may have gone by then."""
    pread = os.pread

    def fail_at_the_end(descriptor: int, length: int, offset: int) -> bytes:
        if offset == LARGE:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", fail_at_the_end)
    with pytest.raises(SourceError, match=f"^{large}: cannot be read: Stale file handle"):
        store(tmp_path).replicate(large, "key")


@pytest.mark.parametrize("looks", [0, 1], ids=["for a change", "for what has grown"])
def test_a_file_of_which_the_status_fails_is_named(
    large: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """A file is looked at once more when it was read, and again where it may grow."""
    source, fstat, seen = open_source(large, may_grow=True), os.fstat, list[os.stat_result]()

    def fail_at_last(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if os.path.samestat(found, large.stat()):
            if len(seen) == looks:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            seen.append(found)
        return found

    with large.open("ab") as file:
        file.write(b"more")
    monkeypatch.setattr(os, "fstat", fail_at_last)
    with pytest.raises(SourceError, match=f"^{large}: cannot be read: Input/output error"):
        read(source)
    source.close()


def test_a_small_file_that_changes_while_it_is_opened_is_said_to_have_changed(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in the call that opens it; its error stays what it is."""
    pread = os.pread

    def grow(descriptor: int, length: int, offset: int) -> bytes:
        with small.open("ab") as file:
            file.write(b"more")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", grow)
    with pytest.raises(SourceChangedError, match=f"^{small}: changed while it was read"):
        open_source(small)
