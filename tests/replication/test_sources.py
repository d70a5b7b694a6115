"""Files, FIFOs and devices as sources: their errors are a `SourceError`, what was opened is closed once."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def open_descriptors(path: Path) -> list[int]:
    """Return the descriptors of this process that are of a path."""
    links = Path("/proc/self/fd").iterdir()
    return [int(link.name) for link in links if link.is_symlink() and os.readlink(link) == str(path)]


def is_open(path: Path) -> bool:
    """Return whether this process has it open."""
    return bool(open_descriptors(path))


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


@pytest.fixture
def replaced(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that a FIFO replaces as soon as it was looked at."""
    look = os.stat

    def replace(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == str(small):
            monkeypatch.setattr(os, "stat", look)
            small.unlink()
            os.mkfifo(small)
        return found

    monkeypatch.setattr(os, "stat", replace)
    return small


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(replaced: Path) -> None:
    """A thread that opens a FIFO cannot be ended: without a writer, no process with it would end either."""
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            open_source(replaced)
        except SourceChangedError as error:
            errors.append(error)

    thread = threading.Thread(target=open_it, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert [str(error).partition(",")[0] for error in errors] == [f"{replaced}: was replaced while it was opened"]
    assert not is_open(replaced)


@pytest.fixture
def lent(small: Path) -> Iterator[Path]:
    """Return a file with a lease, as a file server takes one; a thread gives it up when the kernel asks for it."""
    asked, told = socket.socketpair()
    told.setblocking(False)
    handler, wakeup = signal.signal(signal.SIGIO, lambda *_: None), signal.set_wakeup_fd(told.fileno())
    descriptor = os.open(small, os.O_RDWR)

    def give_up() -> None:
        if asked.recv(1):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    thread = threading.Thread(target=give_up)
    thread.start()
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield small
    except OSError as error:
        pytest.skip(f"no leases here: {error}")
    finally:
        signal.set_wakeup_fd(wakeup)
        told.close()
        thread.join()
        os.close(descriptor)
        signal.signal(signal.SIGIO, handler)
        asked.close()


def test_a_file_that_a_file_server_has_lent_is_waited_for(lent: Path) -> None:
    """Its lease is given up on request: no reason to leave the file out."""
    source = open_source(lent)
    assert source.size == SMALL
    source.close()


def test_a_file_is_read_as_one_that_was_opened_the_usual_way(large: Path) -> None:
    """Where a filesystem heeds `O_NONBLOCK`, its files would fail instead of being waited for."""
    source = open_source(large)
    assert [os.get_blocking(descriptor) for descriptor in open_descriptors(large)] == [True]
    source.close()


def refuse(size: int) -> None:
    """Fail in a way that nobody has thought of."""
    raise RuntimeError(f"{size} bytes")


def test_a_file_is_closed_whatever_its_opening_raises(large: Path) -> None:
    """A process that runs for long has no more descriptors else."""
    with pytest.raises(RuntimeError):
        open_source(large, check_size=refuse)
    assert not is_open(large)


def test_a_file_of_which_the_close_fails_is_closed_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may belong to a file of another thread by then."""
    close, closed = os.close, list[int]()

    def fail(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(SourceError, match=f"^{small}: cannot be read: Input/output error"):
            open_source(small)
    assert len(closed) == 1


@pytest.mark.parametrize("kind", ["small", "large"])
def test_closing_a_file_twice_closes_no_other(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The next file that is opened gets its number."""
    source = open_source(request.getfixturevalue(kind))
    source.close()
    with (tmp_path / "other").open("wb") as other:
        source.close()
        other.write(b"all here")
    assert (tmp_path / "other").read_bytes() == b"all here"


def test_a_device_that_cannot_be_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one that is being read, by a thread that was given up, cannot be."""

    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    device = Broken()
    monkeypatch.setattr("fsbackup.engine.stream_source.open", lambda *_, **__: device, raising=False)
    source = open_source("/dev/zero")
    with pytest.raises(SourceError, match=r"^/dev/zero: cannot be read"):
        read(source)
    source.close()
    assert device.closed
