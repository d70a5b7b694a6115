"""A disk that hangs: the loop lives, the caller hears of it, and the call that comes back late cleans up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup.aio import IdleTimeoutError
from fsbackup.errors import BackendUnavailableError
from fsbackup.loop import run
from fsbackup.stores.local.atomic_file import AtomicFile
from fsbackup.stores.local.store import LocalStore
from fsbackup.stores.local.writer import LocalWriter
from fsbackup.testing.driving import random_bytes, write
from fsbackup.threads import CallCancelledError, Workers, heartbeat


class Hang:
    """Makes calls of one function of `os` wait until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.entered, self._released = threading.Event(), threading.Event()
        original = getattr(os, name)

        def hanging(*args: Any, **kwargs: Any) -> Any:
            self.entered.set()
            self._released.wait(30)
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, hanging)

    def release(self) -> None:
        """Let the calls go on."""
        self._released.set()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a base with an object in it."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kept").write_bytes(b"old")
    return tmp_path / "base"


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """Return a hanging `os.pwrite`, released at the end."""
    made = Hang(monkeypatch, "pwrite")
    yield made
    made.release()


def test_hanging_read_is_unavailable(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that does not come back is `BackendUnavailableError` after the longest silence allowed."""
    hang = Hang(monkeypatch, "pread")
    with pytest.raises(BackendUnavailableError, match="did not answer") as caught:
        run(LocalStore(base, timeout=0.2).read("kept"))
    hang.release()
    assert (caught.value.operation, caught.value.key) == ("read", "kept")


def test_hanging_disk_leaves_the_loop_and_other_disks_alone(base: Path, tmp_path: Path, hang: Hang) -> None:
    """While one disk hangs, however many of its calls there are, another one does its work."""

    async def scenario() -> tuple[bytes, bool]:
        stuck = [asyncio.create_task(LocalStore(base, timeout=30).put(f"a{n}", b"x")) for n in range(40)]
        await asyncio.to_thread(hang.entered.wait, 30)
        healthy = LocalStore(tmp_path / "base")
        found = await healthy.read("kept")
        waiting = not any(task.done() for task in stuck)
        hang.release()
        await asyncio.gather(*stuck)
        return found, waiting

    assert run(scenario()) == (b"old", True)


def test_late_write_cleans_up(base: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write given up while it hung removes its temp file when it comes back, and never gets its name."""

    async def scenario() -> list[str]:
        store = LocalStore(base, timeout=0.2)
        with pytest.raises(BackendUnavailableError):
            await write(store, "kept", random_bytes(1000), 300)
        during = sorted(os.listdir(base))
        hang.release()
        await asyncio.to_thread(unlinked.wait, 30)
        return during

    unlinked, unlink = threading.Event(), os.unlink

    def noted(*args: Any, **kwargs: Any) -> None:
        unlink(*args, **kwargs)
        unlinked.set()

    monkeypatch.setattr(os, "unlink", noted)
    during = run(scenario())
    assert len(during) == 2  # the temp file cannot be removed while the disk hangs
    assert (os.listdir(base), (base / "kept").read_bytes()) == (["kept"], b"old")


def test_cancelled_write_waits_for_its_thread(base: Path, hang: Hang) -> None:
    """When a cancelled write has returned, nothing of it happens any more."""

    async def scenario() -> tuple[bool, list[str]]:
        task = asyncio.create_task(write(LocalStore(base), "kept", random_bytes(1000), 300))
        await asyncio.to_thread(hang.entered.wait, 30)
        task.cancel()
        await asyncio.sleep(0.05)
        waits = not task.done()
        hang.release()
        await asyncio.wait([task])
        return waits, os.listdir(base)

    assert run(scenario()) == (True, ["kept"])


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when a write is told to stop."""
    event, stop = threading.Event(), AtomicFile.cancel

    def noted(self: AtomicFile) -> None:
        stop(self)
        event.set()

    monkeypatch.setattr(AtomicFile, "cancel", noted)
    return event


def test_cancelled_commit_gets_no_name(
    base: Path, monkeypatch: pytest.MonkeyPatch, stopped: threading.Event
) -> None:
    """A commit that is cancelled while it flushes does not go on to the rename."""

    async def scenario(hang: Hang) -> None:
        task = asyncio.create_task(write(LocalStore(base), "kept", random_bytes(1000), 300))
        await asyncio.to_thread(hang.entered.wait, 30)
        task.cancel()
        await asyncio.to_thread(stopped.wait, 30)
        hang.release()
        await asyncio.wait([task])

    run(LocalStore(base).stat("kept"))
    run(scenario(Hang(monkeypatch, "fchmod")))
    assert (os.listdir(base), (base / "kept").read_bytes()) == (["kept"], b"old")


def test_cancelled_write_stops_within_a_part(
    base: Path, monkeypatch: pytest.MonkeyPatch, stopped: threading.Event
) -> None:
    """A part may be hundreds of MiB: what is cancelled stops at the next system call, not at its end."""

    async def scenario(hang: Hang) -> int:
        moved: list[int] = []
        task = asyncio.create_task(
            write(LocalStore(base), "kept", random_bytes(1000), 500, on_progress=moved.append)
        )
        await asyncio.to_thread(hang.entered.wait, 30)
        task.cancel()
        await asyncio.to_thread(stopped.wait, 30)
        hang.release()
        await asyncio.wait([task])
        return len(moved)

    monkeypatch.setattr("fsbackup.stores.local.atomic_file._SLICE", 10)
    assert run(scenario(Hang(monkeypatch, "pwrite"))) <= LocalWriter.concurrency


def test_results_and_errors() -> None:
    """A call's result and its error come back to the waiter."""

    async def scenario() -> tuple[int, str]:
        workers = Workers("test", 2)
        with pytest.raises(ZeroDivisionError) as caught:
            await workers.run(lambda: 1 // 0, 10)
        return await workers.run(lambda: 6 * 7, 10), type(caught.value).__name__

    assert run(scenario()) == (42, "ZeroDivisionError")


def test_no_more_threads_than_allowed() -> None:
    """Calls beyond the limit wait for a thread, and all are made."""

    async def scenario() -> tuple[int, int]:
        workers, gate = Workers("few", 3), threading.Semaphore(0)
        seen: set[int] = set()

        def call() -> None:
            seen.add(threading.get_ident())
            gate.acquire(timeout=10)

        jobs = [workers.submit(call) for _ in range(12)]
        for _ in jobs:
            gate.release()
        await asyncio.gather(*(job.result(10) for job in jobs))
        return len(jobs), len(seen)

    made, threads = run(scenario())
    assert made == 12
    assert threads <= 3


def test_a_pulse_is_no_silence() -> None:
    """A long call that says that bytes move is waited for; it is silent only when it stops saying so."""

    async def scenario() -> str:
        return await Workers("pulse", 1).run(call, 0.3)

    def call() -> str:
        for _ in range(10):
            threading.Event().wait(0.06)
            heartbeat()
        return "done"

    assert run(scenario()) == "done"


def test_queueing_behind_a_busy_thread_is_no_silence() -> None:
    """A call that waits for its turn is not silent as long as the one before it moves."""

    async def scenario() -> list[str]:
        workers = Workers("busy", 1)
        return list(await asyncio.gather(workers.run(busy, 0.3), workers.run(lambda: "second", 0.3)))

    def busy() -> str:
        for _ in range(10):
            threading.Event().wait(0.06)
            heartbeat()
        return "first"

    assert run(scenario()) == ["first", "second"]


def test_dropped_calls_are_not_made() -> None:
    """A call whose waiter gave up before it started is never made."""

    async def scenario() -> list[str]:
        workers, gate, made = Workers("one", 1), threading.Event(), list[str]()
        first = workers.submit(lambda: gate.wait(10))
        second = asyncio.create_task(workers.run(lambda: made.append("second"), 10))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        third = workers.submit(lambda: made.append("third"))
        third.cancel()
        gate.set()
        await first.result(10)
        with pytest.raises(CallCancelledError):
            await third.result(10)
        return made

    assert run(scenario()) == []


def test_silence_names_itself() -> None:
    """Silence is not taken for a timeout that the call itself raised."""

    async def scenario() -> list[str]:
        workers, gate = Workers("silent", 2), threading.Event()
        with pytest.raises(IdleTimeoutError):
            await workers.run(lambda: gate.wait(10), 0.1)
        gate.set()

        def raises() -> None:
            raise TimeoutError("from the disk")

        with pytest.raises(TimeoutError, match="from the disk"):
            await workers.run(raises, 10)
        return [type(IdleTimeoutError()).__name__]

    assert run(scenario()) == ["IdleTimeoutError"]


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is not used any more keeps no threads, and gets new ones when it is."""
    monkeypatch.setattr("fsbackup.threads._IDLE", 0.01)

    async def scenario() -> list[bool]:
        workers, threads = Workers("idle", 2), []
        for _ in range(2):
            thread = await workers.run(threading.current_thread, 10)
            await asyncio.to_thread(thread.join, 30)
            threads.append(thread)
        return [thread.is_alive() for thread in threads]

    assert run(scenario()) == [False, False]


def test_a_forked_child_has_threads_of_its_own(base: Path) -> None:
    """A store used before a fork works in the child."""
    script = (
        "import os, sys\n"
        "from fsbackup.stores.local.store import LocalStore\n"
        "from fsbackup.loop import run\n"
        "store = LocalStore(sys.argv[1])\n"
        "run(store.read('kept'))\n"
        "child = os.fork()\n"
        "found = run(store.read('kept'))\n"
        "if child == 0: os._exit(0 if found == b'old' else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(here)}
    done = subprocess.run([sys.executable, "-c", script, str(base)], env=environment, timeout=60, check=False)
    assert done.returncode == 0
