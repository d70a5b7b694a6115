"""Start a real server as a process of its own, wait until it answers, and stop it again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.ports import claimed_ports

START_TIMEOUT = 60.0  # a busy machine may be slow; a healthy start takes one to four seconds
STOP_TIMEOUT = 5.0
_POLL = 0.05
_ATTEMPTS = 4


class ServerDiedError(RuntimeError):
    """The server ended before it answered: most often somebody else has taken its port."""


class ServerSilentError(RuntimeError):
    """The server runs but did not answer in time."""


@dataclass(frozen=True)
class Workplace:
    """What a server that is about to start may use: a folder of its own and its ports."""

    folder: Path
    ports: tuple[int, ...]

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]


@dataclass(frozen=True)
class ServerSpec:
    """How to start one kind of server.

    Attributes
    ----------
    command
        Makes the command line from the workplace.
    probe
        Called until it no longer raises; speaks the server's protocol to see that it really works.
    ports, with_grpc
        How many ports it needs, and whether the gRPC port above each must be free too.
    env
        Variables to add to the environment.
    timeout
        Seconds after which a server that does not answer is an error, shown with the tail of its log.
    grace
        Seconds it gets to end by itself before it is killed.
    """

    command: Callable[[Workplace], Sequence[str]]
    probe: Callable[[Workplace], None]
    ports: int = 1
    with_grpc: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = START_TIMEOUT
    grace: float = STOP_TIMEOUT


def find_binary(name: str) -> str:
    """Return the path of a server program: beside this interpreter first, then on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"server program {name!r} is neither beside {sys.executable} nor on PATH")
    return found


def log_tail(log: Path, lines: int = 25) -> str:
    """Return the last lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(process: subprocess.Popen[bytes], grace: float = STOP_TIMEOUT) -> None:
    """End one process by its own id: ask first, kill after `grace` seconds."""
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,  # ends with us: our own servers stop when it closes, even after kill -9
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,  # Ctrl-C belongs to the test run, which stops its servers in order
        )
    return process, log


def _await_answer(process: subprocess.Popen[bytes], log: Path, probe: Callable[[], None], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        if process.poll() is not None:
            raise ServerDiedError(f"exit code {process.returncode}:\n{log_tail(log)}")
        try:
            return probe()
        except Exception as error:  # whatever the client raises while nobody is there
            if time.monotonic() > deadline:
                raise ServerSilentError(f"{error!r}\n{log_tail(log)}") from error
        time.sleep(_POLL)


@contextmanager
def _one_attempt(spec: ServerSpec) -> Iterator[Workplace]:
    with (
        tempfile.TemporaryDirectory(prefix="test-server-", ignore_cleanup_errors=True) as folder,
        claimed_ports(spec.ports, with_grpc=spec.with_grpc) as ports,
    ):
        place = Workplace(Path(folder), tuple(ports))
        process, log = _start(spec.command(place), place.folder, spec.env)
        try:
            _await_answer(process, log, lambda: spec.probe(place), spec.timeout)
            yield place
        finally:
            stop(process, spec.grace)


def _start_somewhere(spec: ServerSpec, stack: ExitStack) -> Workplace:
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            return stack.enter_context(_one_attempt(spec))
        except ServerDiedError:  # its port was taken between our look and its bind: try others
            if not remaining:
                raise
    raise AssertionError("unreachable")


@contextmanager
def running_server(spec: ServerSpec) -> Iterator[Workplace]:
    """Run a server until the block ends, on other ports if somebody else took the first ones."""
    with ExitStack() as stack:
        yield _start_somewhere(spec, stack)
