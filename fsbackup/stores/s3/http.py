"""HTTP/1.1 over blocking sockets, for worker threads: one request and its response at a time.

`Http` has the connections to one address, direct or through a proxy; `Exchange` makes one request on one of them.
A thread runs the exchange; the event loop may cancel it, also when nothing has moved for too long, which shuts the
socket down, so that the blocked thread returns at once. Responses are parsed by the standard library, which
bounds their heads; who reads a body says how long it may be.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any, Generic, TypeVar

from fsbackup.stores.s3.connection import Adopt, Connection, Request, find_proxy, prepare, shut_down, with_tls
from fsbackup.stores.s3.settings import Address
from fsbackup.threads import heartbeat

T = TypeVar("T")
_CONNECT_TIMEOUT = 10.0
#: Seconds that a socket has beyond the longest silence. The loop ends the exchange first, by a clock that stops
#: while this process is suspended; the socket's own timeout frees the thread where the loop cannot.
_MARGIN = 5.0


class Http:
    """The connections to one address.

    Parameters
    ----------
    address
        Where to connect to. A proxy comes from the variables ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
        ``NO_PROXY``, as in curl; read once.
    timeout
        Longest silence in seconds.
    ca_bundle
        A PEM file of the authorities to trust instead of the system's.
    """

    def __init__(self, address: Address, timeout: float, ca_bundle: str | None) -> None:
        self._address = address
        self._timeout = timeout
        self._ca_bundle = ca_bundle
        self.proxy = find_proxy(address.scheme, address.netloc, address.host)
        self._family: int | None = None
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._closing = weakref.finalize(self, _close_all, self._idle)

    @property
    def idle(self) -> list[Connection]:
        """The connections to use again; a forked child has none of its parent's."""
        if self._pid != os.getpid():
            self.close()
        return self._idle

    def close(self) -> None:
        """Close the idle connections; those in use are closed after their exchange."""
        self._closing()
        self._pid, self._idle = os.getpid(), []
        self._closing = weakref.finalize(self, _close_all, self._idle)

    def take_idle(self) -> Connection | None:
        """Return the connection that was used last, None without one that still works."""
        idle = self.idle
        while idle:
            with suppress(IndexError):  # another thread took it
                connection = idle.pop()
                if connection.is_usable():
                    return connection
                connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next exchange."""
        connection.last_used = time.monotonic()
        if connection.pool is self.idle:
            self._idle.append(connection)
        else:
            connection.close()

    def head(self, request: Request) -> bytes:
        """Return the head of a request; to a proxy for plain HTTP it names the whole URL (RFC 9112, 3.2.2)."""
        if self.proxy is None or self._address.scheme == "https":
            return request.head(request.target, {})
        return request.head(f"http://{self._address.netloc}{request.target}", self.proxy.headers)

    def connect(self, adopt: Adopt) -> Connection:
        """Open a connection; `adopt` is called with each socket before it blocks."""
        sock = self._reach(adopt)
        try:
            if self.proxy is not None and self._address.scheme == "https":
                self.proxy.open_tunnel(Connection(sock, self._timeout, []), self._address)
            if self._address.scheme == "https":
                sock = with_tls(sock, self._address.host, self._ca_bundle, adopt)
            return Connection(sock, self._timeout + _MARGIN, self._idle)
        except BaseException as error:
            adopt(None)
            sock.close()
            if isinstance(error, OSError):
                raise _named(error, self._address.netloc) from None
            raise

    def _reach(self, adopt: Adopt) -> socket.socket:
        """Connect to the address or the proxy; of several addresses, first to those of the family that worked."""
        host, port = (self.proxy or self._address).host, (self.proxy or self._address).port
        found = _addresses(host, port)
        found.sort(key=lambda one: one[0] != self._family)
        error = OSError("the name has no address")
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                adopt(sock)
                prepare(sock, min(_CONNECT_TIMEOUT, self._timeout) / len(found))
                sock.connect(address)
                self._family = family
                # The handshakes have the time of one address, too.
                proxy_speaks_tls = self.proxy is not None and self.proxy.speaks_tls
                return with_tls(sock, host, self._ca_bundle, adopt) if proxy_speaks_tls else sock
            except OSError as failed:
                error = _named(failed, f"{host}:{port}")
                adopt(None)
                sock.close()
        raise error


def _addresses(host: str, port: int) -> list[Any]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except OSError as error:
        raise _named(error, host) from None


def _named(error: OSError, host: str) -> OSError:
    """Return an error of a connection that was not made, with the name of the host."""
    if isinstance(error, TimeoutError) and not error.strerror:
        return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), host)
    if error.strerror:  # the others have their own text
        error.filename = host
    return error


def _close_all(idle: list[Connection]) -> None:
    while idle:
        with suppress(IndexError):
            idle.pop().close()


class Exchange(Generic[T]):
    """One request and its response, made by `run` in a thread.

    Parameters
    ----------
    http
        The connections.
    request
        The request.
    receive
        Reads the response, in the thread; what it leaves of the body costs the connection.
    on_sent, on_received
        Called in the thread with the number of body bytes that have left, and of bytes that have arrived.
    """

    def __init__(
        self,
        http: Http,
        request: Request,
        receive: Callable[[HTTPResponse], T],
        on_sent: Callable[[int], None] = lambda _: None,
        on_received: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._http = http
        self._request = request
        self._receive = receive
        self._on_sent = on_sent
        self._on_received = on_received
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the exchange from another thread: the one that runs it returns with an error."""
        with self._lock:
            self._cancelled = True
            if self._socket is not None:
                shut_down(self._socket)

    def run(self) -> T:
        """Make the request and return what `receive` returns.

        An idle connection that turns out to be dead, without a byte of a response, is replaced once by a new one:
        all requests may be repeated, creating ones are settled by a tag (see `writer`).
        """
        idle = self._http.take_idle()
        while True:
            connection = idle or self._http.connect(self._adopt)
            reusable = False
            try:
                self._adopt(connection.socket)
                connection.begin(self._arrived)
                response, is_sent = self._ask(connection)
                result = self._receive(response)
                connection.finish()
                reusable = is_sent and response.isclosed() and not response.will_close
                return result
            except (OSError, HTTPException) as error:
                is_dead = idle is not None and not connection.has_answered
                if not is_dead or self._cancelled or isinstance(error, TimeoutError):
                    raise
                idle = None
            finally:
                self._adopt(None)
                if reusable:
                    self._http.give_back(connection)
                else:
                    connection.close()

    def _ask(self, connection: Connection) -> tuple[HTTPResponse, bool]:
        """Send the request; return the response, and whether all of the request was sent."""
        try:
            connection.send(self._http.head(self._request), self._request.body, self._left)
        except TimeoutError:
            raise
        except OSError as error:
            # A service may refuse a body and close before it has read all of it; then it has said why.
            with suppress(OSError, HTTPException):
                response = connection.response(self._request.method)
                if response.status >= 300:
                    return response, False
            raise error
        return connection.response(self._request.method), True

    def _left(self, position: int) -> None:
        heartbeat()
        self._on_sent(position)

    def _arrived(self, count: int) -> None:
        heartbeat()
        self._on_received(count)

    def _adopt(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._socket = sock
            if self._cancelled and sock is not None:
                raise ConnectionAbortedError("the request was cancelled")
