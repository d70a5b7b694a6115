"""The worker behind `wal-fetch`: what recovery asks for next is there, whole and proven, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fsbackup.loop import run
from fsbackup.postgres import spooled
from fsbackup.postgres.prefetch import prefetch
from fsbackup.wal import parse_wal_name
from tests.integration.cli_helpers import Cli, wait_until
from tests.postgres.segments import Clouds, name_of, segment
from tests.postgres.test_spool import cli

__all__ = ["cli"]


@pytest.fixture
def place(clouds: Clouds) -> Path:
    """Where segments are kept."""
    made = clouds.home / "spool/shop/fetch"
    made.mkdir(parents=True)
    return made


@contextmanager
def alive(place: Path) -> Iterator[None]:
    """Hold the lock that a worker holds."""
    lock = os.open(place / spooled.LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def keep(clouds: Clouds, place: Path, last: int, ahead: int) -> set[str]:
    """Let a worker keep what follows a segment, until nobody takes any; return which there are."""
    name = parse_wal_name(name_of(last))
    assert name is not None
    run(prefetch(clouds.archive, place, name, ahead, idle=0.0 if not ahead else 0.4))
    return {path.name for path in place.iterdir() if len(path.name) == 24}


@contextmanager
def kept(clouds: Clouds, place: Path, *numbers: int) -> Iterator[None]:
    """Have a living worker vouch for segments."""
    with alive(place):
        locks = []
        for number in numbers:
            (place / f"{name_of(number)}.tmp").write_bytes(segment(number))
            locks.append(spooled.vouch(str(place), name_of(number), clouds.archive.identity))
        try:
            yield
        finally:
            for lock in locks:
                os.close(lock)


def give(clouds: Clouds, place: Path, number: int) -> bool:
    return spooled.give(str(place), name_of(number), str(clouds.home / "out"), clouds.archive.identity)


def test_the_next_segments_are_kept(clouds: Clouds, place: Path) -> None:
    """As many as are wanted; of those that are not there yet nothing says that they are absent."""
    clouds.push(1, 2, 3, 4)
    (place / name_of(2)).write_bytes(b"of an earlier worker")
    assert keep(clouds, place, 1, 2) == {name_of(2), name_of(3)}
    assert (place / name_of(2)).read_bytes() == segment(2)
    assert keep(clouds, place, 3, 5) == {name_of(4)}


def test_what_is_kept_is_given_once(clouds: Clouds, place: Path) -> None:
    """It is renamed, and gone from there."""
    with kept(clouds, place, 2):
        assert give(clouds, place, 2)
        assert (clouds.home / "out").read_bytes() == segment(2)
        assert {path.name for path in place.iterdir()} == {spooled.LOCK}
        with pytest.raises(FileNotFoundError):
            give(clouds, place, 2)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no other file system")
def test_a_spool_on_another_file_system_gives_the_same(clouds: Clouds) -> None:
    """What cannot be renamed into place is copied; wrong bytes are not."""
    with TemporaryDirectory(dir="/dev/shm") as home:
        place = Path(home)
        assert place.stat().st_dev != clouds.home.stat().st_dev
        with kept(clouds, place, 2, 3):
            (place / name_of(3)).write_bytes(segment(2))
            assert give(clouds, place, 2)
            assert (clouds.home / "out").read_bytes() == segment(2)
            assert not give(clouds, place, 3)
        assert {path.name for path in clouds.home.glob("out*")} == {"out"}
        assert not (place / name_of(2)).exists()


def test_a_segment_that_is_being_fetched_is_waited_for(clouds: Clouds, place: Path) -> None:
    """Asking for it a second time would take longer; a worker that died is not waited for."""
    with ThreadPoolExecutor(1) as pool:
        with kept(clouds, place, 2, 3):
            for name in (f"{name_of(2)}.busy", f"{name_of(3)}.busy", "starting"):
                (place / name).touch()
            given = pool.submit(give, clouds, place, 2)
            for name in (f"{name_of(2)}.busy", "starting"):
                with pytest.raises(TimeoutError):
                    given.result(0.1)
                (place / name).unlink()
            assert given.result(10)
        assert not give(clouds, place, 3)


def test_what_is_kept_is_not_believed_without_its_worker_or_with_other_bytes(clouds: Clouds, place: Path) -> None:
    """A crash may have left it, a full disk cut it off: the call asks the backends itself."""
    clouds.push(1, 2, 3)
    keep(clouds, place, 1, 2)
    assert not give(clouds, place, 2)
    with alive(place):  # another one by now
        assert not give(clouds, place, 3)
    with kept(clouds, place, 2, 3):
        with open(place / name_of(3), "r+b") as file:
            file.write(b"rotten")
        assert not give(clouds, place, 3)
        assert not spooled.give(str(place), name_of(2), str(clouds.home / "out"), "another archive")
    assert not (clouds.home / "out").exists()
    assert not (clouds.home / "out.fsbackup-fetch").exists()


def test_the_first_call_starts_a_worker_and_the_next_ones_load_nothing(cli: Cli, clouds: Clouds) -> None:
    """As PostgreSQL calls them; the end of the WAL is asked for as without a worker, and a gap is one."""
    clouds.push(1, 2, 3, 5)
    kept = clouds.home / "spool/shop/fetch"

    def fetch(number: int) -> int:
        words = ("wal-fetch", name_of(number), "pg_wal/RECOVERYXLOG", "--cluster", "shop")
        return cli("-c", "fsbackup.yaml", *words).code

    assert fetch(1) == 0
    wait_until(lambda: all((kept / name_of(number)).exists() for number in (2, 3)))
    for number in (2, 3):
        assert fetch(number) == 0
        assert (clouds.home / "pg_wal/RECOVERYXLOG").read_bytes() == segment(number)
        assert not (kept / name_of(number)).exists()
    assert fetch(4) == 255
    assert fetch(5) == 0
    assert fetch(6) == 1


def test_what_a_call_has_fetched_by_itself_makes_no_room_wait(clouds: Clouds, place: Path) -> None:
    """Recovery was faster: what it has passed is let go, and the worker goes on behind it."""
    clouds.push(1, 2, 3, 4, 5)
    (place / "asked").write_text(name_of(3))
    assert keep(clouds, place, 1, 1) == {name_of(4)}
