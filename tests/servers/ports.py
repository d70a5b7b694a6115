"""Free TCP ports on loopback that stay free for us while several test processes run at once."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

LOOPBACK = "127.0.0.1"
GRPC_OFFSET = 10_000  # SeaweedFS puts the gRPC port of every service this far above its HTTP port
# Below the range the kernel hands to outgoing connections (from 32768 on), also after adding the offset,
# so that no connection of a test can sit on a port between our look at it and the server's bind.
_FIRST, _LAST = 15_000, 22_500


class _PortClaim:
    """A port held by an advisory file lock: other test processes look elsewhere, also before we bind it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._lock = open(_lock_directory() / str(port), "w")  # noqa: SIM115 - held until __exit__
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise

    def __enter__(self) -> int:
        return self.port

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


def _lock_directory() -> Path:
    folder = Path(tempfile.gettempdir()) / f"test-server-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _claim(stack: ExitStack, offsets: tuple[int, ...]) -> int:
    for _ in range(500):
        port = random.randint(_FIRST, _LAST)
        with ExitStack() as attempt:
            try:
                claimed = [attempt.enter_context(_PortClaim(port + offset)) for offset in offsets]
            except OSError:
                continue
            if all(_is_free(one) for one in claimed):
                stack.push(attempt.pop_all())
                return port
    raise RuntimeError("no free port found on loopback")


@contextmanager
def claimed_ports(count: int, *, with_grpc: bool = False) -> Iterator[list[int]]:
    """Yield `count` free ports, kept from other test processes until the block ends.

    Parameters
    ----------
    count
        How many ports.
    with_grpc
        Whether the port `GRPC_OFFSET` above each must be free too.
    """
    offsets = (0, GRPC_OFFSET) if with_grpc else (0,)
    with ExitStack() as stack:
        yield [_claim(stack, offsets) for _ in range(count)]
