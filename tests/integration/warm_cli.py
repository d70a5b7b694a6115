"""`python -m fsbackup` without the half second of processor time that loading its modules takes each time.

Run as a program, this is a process that has loaded them and forks for each command line that it is sent. What it
forks is a process like any other: its own directory, environment, standard streams, exit code, and end of the
interpreter. Which modules a command loads is for `test_cli_imports`, which starts fresh ones.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

#: What no command loads, or is loaded only with packages of its own.
_NOT_LOADED = (
    "fsbackup.__main__",
    "fsbackup.distributed",
    "fsbackup.filesystem",
    "fsbackup.stores.s3.control.filesystem",
    "fsbackup.testing",
)
_CONFIG = "version: 1\nbackends: {a: {type: local, path: /a}}\nreplication: {s: {backends: [a]}}\n"
_MESSAGE_BYTES = 1 << 20


class WarmCli:
    """The process that forks, from its first command on; it ends when this one does.

    Parameters
    ----------
    environ
        Its environment. Each command has its own instead.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C belongs to the test run, and a command that hangs ends with it
            )
        atexit.register(self.stop)

    def run(
        self, arguments: tuple[str, ...], cwd: Path, environ: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command to its end, without input; return its exit code, standard output and standard error."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            message = json.dumps({"arguments": arguments, "cwd": str(cwd), "environ": dict(environ)}).encode()
            socket.send_fds(self._socket, [message], [out.fileno(), err.fileno()])
            self._socket.settimeout(timeout)
            try:
                answer = self._socket.recv(_MESSAGE_BYTES)
            except TimeoutError:
                self.stop()
                raise subprocess.TimeoutExpired(["fsbackup", *arguments], timeout) from None
            return int(answer), _content(out), _content(err)

    @property
    def descriptor(self) -> int:
        """What `script` needs to have been passed on."""
        return self._socket.fileno()

    @property
    def script(self) -> str:
        """A program for a shell that runs its arguments as a command, one at a time, without input."""
        return f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" send {self.descriptor} "$@"\n'

    def stop(self) -> None:
        """End the process and what it has forked."""
        warm_cli.cache_clear()
        atexit.unregister(self.stop)
        self._socket.close()
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@cache
def warm_cli(*environ: tuple[str, str]) -> WarmCli:
    """Return the process for commands with this path to the package and this search path."""
    return WarmCli(dict(environ))


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _load() -> None:
    """Do once what each command would do: load its modules, and build what checks a configuration."""
    import fsbackup
    from fsbackup.config import parse_config

    for module in pkgutil.walk_packages(fsbackup.__path__, "fsbackup."):
        if not module.name.startswith(_NOT_LOADED):
            __import__(module.name)
    parse_config(_CONFIG, environ={})
    gc.collect()
    gc.freeze()  # at its end a process looks through all that it holds, and would copy the pages of it


def _is_child(server: socket.socket) -> bool:
    """Fork for each message, until there are no more; return True in what is forked."""
    while True:
        message, streams, _, _ = socket.recv_fds(server, _MESSAGE_BYTES, 2)
        if not message:
            return False
        child = os.fork()
        if not child:
            _become(json.loads(message), *streams)
            server.close()
            return True
        for stream in streams:
            os.close(stream)
        _, status = os.waitpid(child, 0)
        server.send(str(os.waitstatus_to_exitcode(status)).encode())


def _send(server: socket.socket, arguments: list[str]) -> int:
    """Have a command run with the directory, environment and streams of this process; return its exit code."""
    message = json.dumps({"arguments": arguments, "cwd": os.getcwd(), "environ": dict(os.environ)}).encode()
    socket.send_fds(server, [message], [1, 2])
    return int(server.recv(_MESSAGE_BYTES))


def _become(command: dict[str, Any], out: int, err: int) -> None:
    for stream, number in ((out, 1), (err, 2)):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["environ"])
    sys.argv[1:] = command["arguments"]


if __name__ == "__main__":
    if sys.argv[1] == "send":
        sys.exit(_send(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:]))
    sys.path[0] = ""  # the current directory, as with `python -m`
    _load()
    if _is_child(socket.socket(fileno=int(sys.argv[1]))):
        runpy.run_module("fsbackup", run_name="__main__", alter_sys=True)
