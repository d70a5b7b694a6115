"""A proxy on loopback between a client and an S3 server that makes faults on demand.

    with fault_proxy(endpoint) as proxy:
        proxy.add(Status(503, "SlowDown"), on="upload_part", times=2)
        backend = connect_to(proxy.endpoint)

It forwards signed requests as they are (the Host that was signed is the one the server sees), has an event
loop in a thread of its own, and keeps a record of every request.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeVar

from tests.servers.endpoint import S3Endpoint
from tests.servers.exchange import Exchange, Record, Stream, record_of
from tests.servers.fault_kinds import (
    Corrupt,
    Drop,
    Fault,
    Hold,
    LoseResponse,
    Refuse,
    Stall,
    Status,
    Throttle,
    Truncate,
    WrongDate,
    WrongEtag,
)
from tests.servers.operations import Operation, parse_request
from tests.servers.ports import LOOPBACK
from tests.servers.wire import Head, finish, read_head

__all__ = [
    "Corrupt",
    "Drop",
    "Fault",
    "FaultProxy",
    "Hold",
    "LoseResponse",
    "Record",
    "Refuse",
    "Stall",
    "Status",
    "Throttle",
    "Truncate",
    "WrongDate",
    "WrongEtag",
    "fault_proxy",
]

# Small socket buffers: a stalled or slow proxy is felt after this many bytes and not after megabytes.
_SOCKET_BUFFER = 128 * 1024
AnyFault = TypeVar("AnyFault", bound=Fault)


@dataclass
class _Rule:
    fault: Fault
    on: Operation | Literal["any"]
    key: str
    first: int
    times: int | None
    seen: int = 0

    def takes(self, operation: str, key: str) -> bool:
        """Count a request that matches and tell whether it is one of those to hit."""
        if self.on not in ("any", operation) or self.key not in key:
            return False
        self.seen += 1
        return self.first <= self.seen and (self.times is None or self.seen < self.first + self.times)

    @property
    def is_for_connections(self) -> bool:
        return isinstance(self.fault, Refuse) and self.on == "any" and not self.key

    def patience(self) -> float:
        """Return the seconds after which a client can as well stop trying, since no attempt will ever succeed."""
        if self.times is not None or not self.fault.fails_every_attempt:
            return math.inf
        return 0.5 if self.is_for_connections else 2.0


class FaultProxy:
    """Passes everything on to one server, except for the faults that a test adds.

    Attributes
    ----------
    cleared
        Called when faults were taken away: what this process knows of who is away is old then.
    """

    cleared: ClassVar[Callable[[], None]] = staticmethod(lambda: None)

    def __init__(self, upstream: S3Endpoint, port: int = 0) -> None:
        self._upstream = upstream
        self._rules: list[_Rule] = []
        self._records: list[Record] = []
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.WriteTransport] = set()
        self._socket = _listen(port)
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fault-proxy")
        url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"
        self.endpoint = replace(upstream, endpoint_url=url, ca_bundle=None)

    def add(
        self,
        fault: AnyFault,
        *,
        on: Operation | Literal["any"] = "any",
        key: str = "",
        first: int = 1,
        times: int | None = None,
    ) -> AnyFault:
        """Add a fault and return it.

        Parameters
        ----------
        fault
            What shall happen. Faults whose rules match the same request all act, in the order added.
        on, key
            Which operation, and which part its key must contain.
        first
            The first matching request to hit, counted from 1 from now on.
        times
            How many from there on; None is for ever.
        """
        with self._lock:
            self._rules.append(_Rule(fault, on, key, first, times))
        return fault

    def clear(self) -> None:
        """Take all faults away and let go what is held; what is stalled stays stalled.

        Whoever comes next in this process finds a server that nobody knows to be away, as a later process would.
        """
        with self._lock:
            rules, self._rules = self._rules, []
        if any(not isinstance(rule.fault, Hold | Throttle) for rule in rules):
            FaultProxy.cleared()
        for rule in rules:
            if isinstance(rule.fault, Hold):
                rule.fault.release()

    def forget(self) -> None:
        """Empty the record of requests."""
        with self._lock:
            self._records = []

    @property
    def requests(self) -> list[Record]:
        """Every request so far, in the order their heads arrived."""
        with self._lock:
            return list(self._records)

    def count(self, operation: Operation | Literal["any"] = "any", key: str = "") -> int:
        """Return how many requests of that kind came."""
        return sum(operation in ("any", one.operation) and key in one.key for one in self.requests)

    def patience(self, usual: float) -> float:
        """Return the timeout in seconds for a client: less than usual while requests of a kind always fail."""
        with self._lock:
            return min(usual, *(rule.patience() for rule in self._rules), math.inf)

    def cut_connections(self) -> None:
        """Cut every open connection, stalled and held ones too; new ones are served."""
        self._loop.call_soon_threadsafe(self._cancel_all)

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Cut every connection and end the thread; once stopped, do nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, sock=self._socket)
        self._ready.set()
        await self._stop.wait()
        self._loop.remove_reader(self._socket)
        for _ in range(
            5
        ):  # what was accepted a moment ago gets its transport, as long as the server is not closed
            await asyncio.sleep(0)
        server.close()
        self._cancel_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            if not _is_closed(transport):  # else it would be collected open
                transport.abort()
        await asyncio.sleep(0.01)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._transports = {each for each in self._transports if not _is_closed(each)} | {writer.transport}
        with self._lock:
            refusals = [rule for rule in self._rules if rule.is_for_connections and rule.takes("any", "")]
        if refusals:
            refusals[0].fault.strike()
            writer.transport.abort()
            return
        task = asyncio.create_task(self._converse((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # cancelled before its first step, it has not

    async def _converse(self, client: Stream) -> None:
        try:
            while head := await read_head(client[0]):
                if not await self._exchange(client, head).run(self._upstream):
                    return
        except OSError:
            pass  # the client has gone away: nothing left to tell it
        finally:
            await finish(client[1])

    def _exchange(self, client: Stream, head: Head) -> Exchange:
        method, target, _ = head.start.split(" ", 2)
        request = parse_request(method, target, is_copy=bool(head.get("x-amz-copy-source")))
        record = record_of(head, request)
        with self._lock:
            self._records.append(record)
            faults = [rule.fault for rule in self._rules if rule.takes(record.operation, record.key)]
        record.faults = [type(fault).__name__ for fault in faults]
        return Exchange(client, head, record, faults)


def _listen(port: int = 0) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    listener.bind((LOOPBACK, port))
    listener.listen(256)
    return listener


def _is_closed(transport: asyncio.WriteTransport) -> bool:
    """Tell whether the socket is closed, and not just about to be."""
    socket = transport.get_extra_info("socket")
    return socket is None or socket.fileno() < 0


@contextmanager
def fault_proxy(upstream: S3Endpoint, port: int = 0) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server until the block ends, at any free port by default."""
    proxy = FaultProxy(upstream, port)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
