"""A running command: what it writes, the last lines of its standard error, how it ended, and its end by force."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from fsbackup.errors import SourceError

log = logging.getLogger("fsbackup.command")

#: So much of standard error is kept for the message of an error.
_LAST_LINES, _LAST_BYTES = 20, 8 << 10
#: Bytes that standard output may be ahead: with the default 64 KiB of a pipe, the command and its reader wait for
#: each other at each piece. And bytes of one read.
_ROOM, READ = 1 << 20, 1 << 18
#: Seconds that a command has to clean up after SIGTERM before it is killed.
GRACE = 2.0
#: Seconds between two looks at the deadline, and at whether another task ends the command.
_TICK = 0.2
#: Seconds between two looks at whether the command has exited, once its output has ended.
_EXIT_TICK = 0.02


class Process:
    """A command that has been started. One thread reads; any other may close it.

    Parameters
    ----------
    arguments
        The program and its arguments.
    name
        What messages call it.
    timeout
        Seconds until it is ended; None for no limit.
    pieces
        What it gets from standard input, taken in a thread; None for nothing.
    directory
        Where it runs; None for where this process is.
    consequence
        What its failure means, for messages.

    Raises
    ------
    SourceError
        When it cannot be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        timeout: float | None,
        pieces: Iterable[bytes] | None = None,
        directory: Path | None = None,
        consequence: str = "nothing was stored",
    ) -> None:
        self._name = name
        self._consequence = consequence
        self._timeout = timeout
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._stderr = self._line = b""
        self._is_closed = False
        #: Held while a pipe is read, so that no descriptor is closed, and used for something else, meanwhile.
        self._reading = threading.Lock()
        try:
            self._process = subprocess.Popen(
                arguments,
                bufsize=0,
                stdin=subprocess.DEVNULL if pieces is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=directory,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _not_started(name, error) from error
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out, self._err = self._process.stdout, self._process.stderr
        with suppress(OSError):  # a user has so many pages for all pipes, and the system a limit for each
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _ROOM)
        self._feeder: threading.Thread | None = None
        self._input_error: Exception | None = None
        if pieces is not None:
            self._feeder = threading.Thread(target=self._feed, args=(pieces,), name="fsbackup-input", daemon=True)
            self._feeder.start()
        self._poll = select.poll()
        for pipe in (self._out, self._err):
            self._poll.register(pipe.fileno(), select.POLLIN)

    @property
    def stderr(self) -> str:
        """The last 8 KiB of its standard error."""
        return self._stderr.decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last lines of its standard error, as the end of a message; empty when there are none."""
        lines = [line.strip() for line in self.stderr.splitlines()]
        return "".join(
            f"{' | ' if at else ': '}{line}" for at, line in enumerate(list(filter(None, lines))[-_LAST_LINES:])
        )

    def read(self, length: int) -> bytes:
        """Return up to `length` next bytes of its standard output, b"" at the end.

        Raises
        ------
        SourceError
            When it takes too long, or was closed.
        """
        while True:
            self._check_time()
            with self._reading:
                if self._out.fileno() in self._ready(_TICK):
                    return self._take(self._out, min(length, READ))

    def wait(self) -> None:
        """Wait until it has exited, once its output has ended.

        Raises
        ------
        SourceError
            Unless it exits with 0; the message has the exit code, or the signal, and the last lines it wrote.
        """
        code = None
        while code is None:
            self._check_time()
            with self._reading:
                self._ready(0)
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_EXIT_TICK)
        with self._reading:
            self._ready(0)  # what it wrote last: no more than one read, since a pipe holds no more
        if self._feeder is not None:
            self._feeder.join()
        if self._input_error is not None:
            raise self._input_error
        if code:
            how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
            raise SourceError(f"{self._name}: {how}, {self._consequence}{self.last_words}")

    def _feed(self, pieces: Iterable[bytes]) -> None:
        """Write what it is to get; a command that has ended, or does not want all of it, is judged by its exit."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            try:
                for piece in pieces:
                    stdin.write(piece)
            except BrokenPipeError:
                pass
            except Exception as error:  # noqa: BLE001 - raised by `wait`, in the thread that reads
                self._input_error = error

    def close(self) -> None:
        """End it and all that it has started, if it has not ended: SIGTERM, and SIGKILL after `GRACE` seconds."""
        self._is_closed = True
        self._end()
        with self._reading:
            self._out.close()
            self._err.close()

    def _ready(self, seconds: float) -> set[int]:
        """Wait for output, and return which pipes have some; that of standard error is read at once."""
        if self._is_closed:
            return set()
        found = {descriptor for descriptor, _ in self._poll.poll(seconds * 1000)}
        if self._err.fileno() in found:
            self._keep(self._take(self._err, READ))
        return found

    def _take(self, pipe: IO[bytes], length: int) -> bytes:
        """Read from a pipe that has something; at its end it is not polled any more."""
        data = os.read(pipe.fileno(), length)
        if not data:
            self._poll.unregister(pipe.fileno())
        return data

    def _keep(self, data: bytes) -> None:
        """Keep the last bytes of standard error for a message, and log whole lines of it."""
        self._stderr = (self._stderr + data)[-_LAST_BYTES:]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[-_LAST_BYTES:] if data else b""
        for line in lines if data else [rest]:
            if line:
                log.debug("%s: %s", self._name, line.decode(errors="replace"))

    def _check_time(self) -> None:
        if self._is_closed:
            raise SourceError(f"{self._name}: ended before it was done, {self._consequence}")
        if time.monotonic() > self._deadline:
            self._end()
            raise SourceError(
                f"{self._name}: not done after {self._timeout:g} seconds, so it was ended; {self._consequence}"
                f"{self.last_words}",
                hint="give it more time: timeout of the job, --timeout of the command",
            )

    def _end(self) -> None:
        """End its process group, unless it has exited and was waited for: then the number may be another's."""
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
            self._wait_for_exit(GRACE)
            if self._process.returncode is None:
                # Also when the command itself has exited: what it has started may ignore SIGTERM.
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _wait_for_exit(self, seconds: float) -> None:
        """Wait until it has exited, without reaping it: until then its process id is not reused."""
        deadline = time.monotonic() + seconds
        with suppress(ChildProcessError):
            while time.monotonic() < deadline and not os.waitid(
                os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                time.sleep(_EXIT_TICK)


def _not_started(name: str, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"{name}: no such command",
            hint="write its whole path, since cron has a short PATH; without a shell, a pipe needs `sh -c`",
        )
    return SourceError(f"{name}: cannot be started: {getattr(error, 'strerror', None) or error}")


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
