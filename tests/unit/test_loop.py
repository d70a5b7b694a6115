"""The I/O loop: its clock stops while the process does, and Ctrl-C reaches whoever waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fsbackup.loop import run


def test_deadlines_pass_while_the_loop_waits() -> None:
    """Also those longer than one of its waits."""

    async def waiting() -> float:
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time() - started

    began = time.monotonic()
    assert run(waiting()) >= 1.5
    assert time.monotonic() - began >= 1.5


def test_what_came_while_the_loop_was_held_up_is_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """The loop itself does not run for longer than the deadline, the answer comes, and counts."""

    async def waiting() -> None:
        answer = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Timer(0.2, lambda: loop.call_soon_threadsafe(answer.set)).start()
        async with asyncio.timeout(3):
            time.sleep(6)  # noqa: ASYNC251 - nothing runs
            await answer.wait()
            await asyncio.sleep(0.1)

    run(waiting())
    assert "stood still for 6" in caplog.text


def test_a_standstill_is_never_seen_on_the_clock() -> None:
    """Neither by what was held up in the middle nor by a thread that looks on; and time never goes back."""

    async def held_up() -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time()]
        time.sleep(4)  # noqa: ASYNC251 - nothing runs
        seen += [loop.time(), await asyncio.to_thread(loop.time)]
        await asyncio.sleep(0)
        return [*seen, loop.time()]

    seen = run(held_up())
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < 2


def test_a_stopped_process_finds_its_deadlines_where_they_were() -> None:
    """Ctrl-Z and `fg`: what had two seconds left still has them."""
    code = (
        "import asyncio; from fsbackup.loop import run\n"
        "async def main():\n"
        "    async with asyncio.timeout(3):\n"
        "        print('waiting', flush=True)\n"
        "        await asyncio.to_thread(input)\n"
        "        await asyncio.sleep(0.5)\n"
        "run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"waiting\n"
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(5)
        child.stdin.write(b"\n")
        child.stdin.flush()
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(20) == 0


def test_ctrl_c_is_heard_when_another_thread_takes_its_signal() -> None:
    """As may be any that was just begun: the main thread is not woken by it."""

    def take() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Timer(0.3, take).start()
    with pytest.raises(KeyboardInterrupt):
        run(asyncio.Event().wait())
