"""A command as the source of an upload: `Command` describes it, `CommandSource` runs it and reads what it writes.

It runs without a shell, with empty standard input, in a session of its own: it cannot ask for a password, and
Ctrl-C in a terminal reaches it through fsbackup only. It starts at the first read. The end of its output is handed
on only after it has exited with 0, so that nothing is committed of a command that fails, however late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from fsbackup.engine.process import READ, Process
from fsbackup.engine.source import Source
from fsbackup.engine.stream_source import StreamSource
from fsbackup.errors import SourceError


@dataclass(frozen=True)
class Command:
    """A program whose standard output is backed up.

    Parameters
    ----------
    arguments
        The program and its arguments. There is no shell: no pipes, no wildcards, no quotes. They are not in the
        `repr` nor in any message, but every user of the machine can list them: a password belongs in the
        environment or in a file.
    min_bytes
        Output that is shorter is an error; 1 by default.
    timeout
        Seconds from the start of the command to its end, the upload of its output included; None for no limit.
    name
        What messages call it; the program by default.
    input
        Called when it starts: what it gets from standard input, piece by piece. An exception of it fails the
        command. None: standard input is empty.

    Raises
    ------
    ValueError
        When `arguments` is one text instead of a sequence, is empty, or has something else than text in it.
    """

    arguments: Sequence[str] = field(repr=False)
    min_bytes: int = 1
    timeout: float | None = None
    name: str = ""
    input: Callable[[], Iterable[bytes]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.arguments, str | bytes) or not all(isinstance(each, str) for each in self.arguments):
            raise ValueError('a command is a list of texts, one for each argument: ["pg_dump", "-Fc", "shop"]')
        if not self.arguments or not self.arguments[0]:
            raise ValueError("a command needs the name of a program")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"the timeout of a command must be more than 0 seconds, not {self.timeout}")
        object.__setattr__(self, "arguments", tuple(self.arguments))
        object.__setattr__(self, "name", self.name or self.arguments[0])

    def __str__(self) -> str:
        return self.name

    def open_source(self, *, allow_empty: bool = False) -> Source:
        """Return its output as the source of an upload; it starts with the first read."""
        return CommandSource(self, allow_empty=allow_empty)


class CommandSource(StreamSource):
    """The standard output of a command.

    Parameters
    ----------
    command
        What to run.
    allow_empty
        Whether it may write nothing.
    """

    _look_ahead = READ

    def __init__(self, command: Command, *, allow_empty: bool = False) -> None:
        super().__init__(cast(BinaryIO, None), command.name, allow_empty=allow_empty)
        self._command = command
        self._min_bytes = 0 if allow_empty and command.min_bytes <= 1 else max(1, command.min_bytes)
        self._received = 0
        self._process: Process | None = None
        self._closed = False
        #: A read that was cancelled goes on in its thread: it must not start what `close` would not end.
        self._lock = threading.Lock()

    @property
    def stderr(self) -> str:
        """The end of what the command has written to standard error."""
        return self._process.stderr if self._process is not None else ""

    def close(self) -> None:
        """End the command if it still runs; blocks for as long as it takes to end, a few seconds at most."""
        super().close()
        with self._lock:
            self._closed = True
        if self._process is not None:
            self._process.close()

    def _read_piece(self, length: int) -> bytes:
        process = self._started()
        piece = process.read(length)
        self._received += len(piece)
        if not piece:
            self._finish(process)
        return piece

    def _started(self) -> Process:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self.label}: the upload has ended")
            command = self._command
            if self._process is None:
                self._process = Process(
                    command.arguments,
                    name=command.name,
                    timeout=command.timeout,
                    pieces=command.input() if command.input else None,
                )
            return self._process

    def _finish(self, process: Process) -> None:
        """Raise `SourceError` unless the command succeeds, and has written enough."""
        process.wait()
        if self._received >= self._min_bytes:
            return
        if not self._received:
            why, hint = "exit code 0, but no output", "check what it writes to standard output"
        else:
            why = (
                f"exit code 0, but {self._received:,} bytes of output, less than the required {self._min_bytes:,}"
            )
            hint = "check what it wrote, or require less: min_bytes of the job, --min-size of put"
        raise SourceError(f"{self.label}: {why}; nothing was stored{process.last_words}", hint=hint)
