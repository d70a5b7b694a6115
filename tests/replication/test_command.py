"""A command as a source: its output is stored everywhere, or nothing is stored anywhere."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsbackup import Command, LocalStorage, ReplicatedStorage
from fsbackup.errors import SourceError
from fsbackup.loop import run
from tests.integration.cli_helpers import is_running, wait_until
from tests.replication.rig import MIB, PART, ReplicaRig

KEY = "db/shop.dump"
GOOD = b"the last good dump"


class Disks:
    """Two disks as a set, and what is on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        disks = [LocalStorage(root / name, name=name, errors="raise") for name in ("one", "two")]
        self.store = ReplicatedStorage(disks, part_size=MIB, errors="raise")

    def files(self) -> dict[str, bytes]:
        """Return everything on both disks by path, records and temp files too."""
        found = (path for name in ("one", "two") for path in (self.root / name).rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Return two empty disks."""
    return Disks(tmp_path)


def python(code: str, **options: float) -> Command:
    """Return a command that runs some lines of Python."""
    arguments = [sys.executable, "-c", f"import os, signal, sys, time\n{code}"]
    return Command(arguments, name="dumper", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, 3 * MIB, 3 * MIB + 1])
def test_its_output_is_stored_on_every_replica(disks: Disks, size: int) -> None:
    """Whole, whatever the size of parts and pipes, with standard input at its end."""
    command = python(f"assert sys.stdin.read() == ''\nsys.stdout.write('x' * {size})")
    report = disks.store.replicate(command, KEY)
    assert (report.status, report.size) == ("complete", size)
    assert report.sha256 == hashlib.sha256(b"x" * size).hexdigest()
    assert {name: data for name, data in disks.files().items() if ".fsbackup" not in name} == {
        f"one/{KEY}": b"x" * size,
        f"two/{KEY}": b"x" * size,
    }


FAILURES: dict[str, tuple[Command, str]] = {
    "not there": (
        Command(["/no/such/pg_dump", "shop"]),
        r"/no/such/pg_dump: no such command - write its whole path",
    ),
    "no program": (Command(["/etc/passwd"]), r"/etc/passwd: cannot be started: Permission denied"),
    "fails at once": (
        python("sys.exit('no database shop')"),
        r"dumper: exit code 1, nothing .*: no database shop$",
    ),
    "fails at the end": (
        python(f"sys.stdout.write('x' * {3 * MIB + 5}); sys.exit(9)"),
        r"dumper: exit code 9, nothing was stored$",
    ),
    "fails after a whole part": (python(f"sys.stdout.write('x' * {MIB}); sys.exit(3)"), "exit code 3"),
    "fails after its output": (
        python("print('x', flush=True); os.close(1); time.sleep(0.1); os._exit(4)"),
        "exit code 4",
    ),
    "is killed": (python("print('x', flush=True); os.kill(os.getpid(), 9)"), "dumper: killed by SIGKILL, nothing"),
    "writes nothing": (
        python("print('hm', file=sys.stderr)"),
        "exit code 0, but no output; nothing was stored: hm - ",
    ),
    "writes too little": (
        python("print('-- dump')", min_bytes=1000),
        r"exit code 0, but 8 bytes of output, less than the required 1,000; nothing .* --min-size",
    ),
    "hangs": (
        python("print('waiting for a lock', file=sys.stderr, flush=True); time.sleep(1000)", timeout=0.3),
        r"dumper: not done after 0.3 seconds, .*: waiting for a lock - give it more time",
    ),
    "hangs after its output": (
        python("print(); os.close(1); time.sleep(1000)", timeout=0.3),
        "not done after 0.3",
    ),
}


@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "overwrite"])
@pytest.mark.parametrize("how", FAILURES)
def test_nothing_is_stored_of_one_that_fails(disks: Disks, how: str, overwrite: bool) -> None:
    """Neither bytes nor records nor temp files; the copy of last night stays what it was."""
    command, message = FAILURES[how]
    if overwrite:
        (disks.root / "good").write_bytes(GOOD)
        disks.store.replicate(disks.root / "good", KEY)
    before = disks.files()
    with pytest.raises(SourceError, match=message):
        disks.store.replicate(command, KEY, overwrite=overwrite)
    assert disks.files() == before


def test_nothing_is_left_in_a_bucket(rig: ReplicaRig) -> None:
    """No object, no record and no unfinished upload of the parts that were sent already."""
    before = {name: raw.everything() for name, raw in rig.raw_replicas.items()}
    with pytest.raises(SourceError, match="exit code 9"):
        rig.store().replicate(python(f"sys.stdout.write('x' * {2 * PART + 5}); sys.exit(9)"), KEY)
    assert {name: raw.everything() for name, raw in rig.raw_replicas.items()} == before
    assert [raw.unfinished() for raw in rig.raw_replicas.values()] == [[], [], []]


def test_the_last_lines_of_its_errors_are_told_and_all_of_them_logged(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    """However much it writes there, before its output and beside it."""
    caplog.set_level(logging.DEBUG, "fsbackup.command")
    code = "for at in range(9000): sys.stderr.write(f'line {at}\\n')\nprint('x'); sys.exit(1)"
    with pytest.raises(SourceError) as caught:
        disks.store.replicate(python(code), KEY)
    lines = str(caught.value).partition("nothing was stored: ")[2].split(" | ")
    assert lines == [f"line {at}" for at in range(8980, 9000)]
    assert caplog.messages == [f"dumper: line {at}" for at in range(9000)]


def test_one_endless_line_of_errors_is_bounded(disks: Disks) -> None:
    """A message is for people."""
    with pytest.raises(SourceError) as caught:
        disks.store.replicate(python("sys.exit('x' * 1_000_000)"), KEY)
    assert len(str(caught.value)) < 9000


def test_a_fifo_that_nobody_writes_to_is_not_waited_for_for_ever(
    disks: Disks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and at last an error."""
    for name, seconds in (("FIFO_TIMEOUT", 0.1), ("_FIFO_SAID", 0.0), ("_FIFO_TICK", 0.02)):
        monkeypatch.setattr(f"fsbackup.engine.stream_source.{name}", seconds)
    os.mkfifo(disks.root / "fifo")
    with pytest.raises(SourceError, match="fifo: nothing was written to this FIFO for 0 seconds"):
        disks.store.replicate(disks.root / "fifo", KEY)
    assert caplog.messages == [f"{disks.root}/fifo: waiting for a program that writes to this FIFO"]


def test_empty_output_can_be_allowed(disks: Disks) -> None:
    """By who says so."""
    assert disks.store.replicate(Command(["true"]), KEY, allow_empty=True).size == 0


def test_a_backend_alone_takes_one_too(disks: Disks) -> None:
    """`upload` replaces, as it does a file."""
    one = disks.store.backends["one"]
    assert all(one.upload(Command(["echo", text]), KEY) for text in ("old", "new"))
    assert (disks.root / "one" / KEY).read_bytes() == b"new\n"
    with pytest.raises(SourceError, match="false: exit code 1"):
        one.upload(Command(["false"]), KEY)
    assert (disks.root / "one" / KEY).read_bytes() == b"new\n"


#: Starts a child of its own, names both, cleans up after SIGTERM where it can, and writes for ever.
FAMILY = """
child = os.fork() or time.sleep(1000)
{on_term}
open({pids!r}, 'w').write(f'{{os.getpid()}} {{child}}')
while True: sys.stdout.write('x' * 100_000)
"""
CLEANING = "signal.signal(signal.SIGTERM, lambda *_: (open({cleaned!r}, 'w').close(), os._exit(0)))"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def family(tmp_path: Path) -> Callable[..., Command]:
    """Return what makes a command with a child that never end by themselves."""

    def make(on_term: str = "", **options: float) -> Command:
        on_term = on_term.format(cleaned=str(tmp_path / "cleaned"))
        return python(FAMILY.format(on_term=on_term, pids=str(tmp_path / "pids")), **options)

    return make


def assert_gone(tmp_path: Path) -> None:
    """Check that the command and its child are no more."""
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


@pytest.mark.parametrize("on_term", [CLEANING, DEAF], ids=["cleans up", "deaf"])
def test_it_is_ended_with_its_children_when_its_time_is_up(
    disks: Disks, tmp_path: Path, family: Callable[..., Command], monkeypatch: pytest.MonkeyPatch, on_term: str
) -> None:
    """It may clean up after itself; who does not hear SIGTERM is killed."""
    monkeypatch.setattr("fsbackup.engine.process.GRACE", 0.2 if on_term == DEAF else 20)
    with pytest.raises(SourceError, match="not done after"):
        disks.store.replicate(family(on_term, timeout=1), KEY)
    assert_gone(tmp_path)
    assert (tmp_path / "cleaned").exists() == (on_term == CLEANING)
    assert disks.files() == {}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond a MiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
def test_it_is_ended_with_its_children_when_no_replica_takes_its_output(
    disks: Disks, tmp_path: Path, family: Callable[..., Command]
) -> None:
    """Nobody would read what it writes."""
    report = disks.store.replicate(family(), KEY)
    assert "File too large" in str(report.failure())
    assert_gone(tmp_path)
    assert disks.files() == {}


def test_a_read_that_was_cancelled_starts_nothing(tmp_path: Path) -> None:
    """The thread in which a command would be started may come late."""
    source = Command(["touch", str(tmp_path / "started")]).open_source()
    source.close()
    with pytest.raises(SourceError, match="the upload has ended"):
        run(source.next_part(1, md5=False))
    source.close()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("arguments", ["pg_dump shop", [], [""], [b"pg_dump"], ["sleep", 3]])
def test_arguments_are_a_list_of_texts(arguments: list[str]) -> None:
    """There is no shell that would split a line into words."""
    with pytest.raises(ValueError, match="a command"):
        Command(arguments)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Command(["x"], timeout=0)


def test_its_arguments_are_in_no_message(disks: Disks) -> None:
    """People put passwords there."""
    command = Command(["false", "--password=hunter2"])
    with pytest.raises(SourceError) as caught:
        disks.store.replicate(command, KEY)
    assert "hunter2" not in f"{command!r} {command} {caught.value!r} {caught.value}"
