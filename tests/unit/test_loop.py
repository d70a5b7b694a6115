"""The I/O loop: its clock stops while the process is suspended, and Ctrl-C interrupts a waiting caller."""

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
    """Also those longer than one wait of the selector."""

    async def waiting() -> float:
        started = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time() - started

    began = time.monotonic()
    assert run(waiting()) >= 1.5
    assert time.monotonic() - began >= 1.5


def test_an_answer_that_arrived_while_the_loop_was_blocked_is_in_time(caplog: pytest.LogCaptureFixture) -> None:
    """The loop is blocked for longer than the deadline; the answer that arrived meanwhile counts."""

    async def waiting() -> None:
        answer = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Timer(0.2, lambda: loop.call_soon_threadsafe(answer.set)).start()
        async with asyncio.timeout(3):
            time.sleep(6)  # noqa: ASYNC251 - nothing runs
            await answer.wait()
            await asyncio.sleep(0.1)

    run(waiting())
    assert "process was suspended for 6" in caplog.text


def test_a_suspension_is_never_seen_on_the_clock() -> None:
    """Neither by the blocked coroutine nor by another thread; and the clock never goes back."""

    async def blocked() -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time()]
        time.sleep(4)  # noqa: ASYNC251 - nothing runs
        seen += [loop.time(), await asyncio.to_thread(loop.time)]
        await asyncio.sleep(0)
        return [*seen, loop.time()]

    seen = run(blocked())
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < 2


def test_a_stopped_process_keeps_the_rest_of_its_deadlines() -> None:
    """Ctrl-Z and `fg`: a timeout with two seconds left still has them."""
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


def test_ctrl_c_interrupts_when_another_thread_gets_its_signal() -> None:
    """The system may deliver it to any thread, which does not wake the main thread."""

    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Timer(0.3, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(asyncio.Event().wait())


def test_a_synchronous_call_on_the_loop_itself_is_refused() -> None:
    """It would wait for ever; on another loop's thread it is only slow."""

    async def nothing() -> None:
        pass

    async def call() -> None:
        run(nothing())

    with pytest.raises(RuntimeError, match="its own event loop"):
        run(call())
    asyncio.run(call())


def test_a_runtime_error_of_the_coroutine_is_raised() -> None:
    """Whatever its text."""

    async def fail() -> None:
        raise RuntimeError("no running event loop")

    with pytest.raises(RuntimeError, match="no running event loop"):
        run(fail())
