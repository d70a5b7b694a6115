"""`Http`: the connections to one address, direct or through a proxy, and its idle ones.

A thread passes on each socket before it blocks on it (`Adopt`), so that another thread can shut it down.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from fsbackup.stores.s3.errors import ProxyError
from fsbackup.stores.s3.http.connection import Connection, Signed
from fsbackup.stores.s3.http.settings import Address, Proxy, find_proxy

#: Most seconds to connect, and as many for a TLS handshake; several addresses share the time to connect, each with
#: at least what a round trip on a slow line may need.
_CONNECT_TIMEOUT, _LEAST_SHARE = 10.0, 3.0
#: Seconds added to a socket's timeout. The loop ends the exchange first, by a clock that stops while this process
#: is suspended; the socket's own timeout frees the thread where the loop cannot.
_MARGIN = 5.0
#: Called with the socket that a thread is about to block on, and with None when it no longer does.
Adopt = Callable[[socket.socket | None], None]
#: Bytes that the kernel may hold unsent. Its default is 4 MiB per connection; on a slow line they would be sent
#: long after they were counted, which looks like a stall. Half as many would cost a tenth of an upload's time.
_MAX_UNSENT = 256 * 1024


class Http:
    """The connections to one address.

    Parameters
    ----------
    address
        Where to connect to. A proxy comes from the variables ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
        ``NO_PROXY`` (hosts, domains, networks such as ``10.0.0.0/8``, or ``*``); read once.
    timeout
        Longest time in seconds without a byte moved.
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
        """The idle connections; a forked child has none of its parent's."""
        if self._pid != os.getpid():
            self.close()
        return self._idle

    def close(self) -> None:
        """Close the idle connections; those in use are closed after their exchange."""
        self._closing()
        self._pid, self._idle = os.getpid(), []
        self._closing = weakref.finalize(self, _close_all, self._idle)

    def take_idle(self) -> Connection | None:
        """Return the most recently used connection that still works, or None."""
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
            self._drop_old()
            self._idle.append(connection)
        else:
            connection.close()

    def _drop_old(self) -> None:
        """Close the connections that have been idle too long, which come first in the list."""
        idle = self._idle
        with suppress(IndexError):  # another thread took the last
            while idle[0].is_old:
                idle.pop(0).close()  # it may be a newer one by now, which only costs a connection

    def head(self, request: Signed) -> bytes:
        """Return the head of a request; for a proxy and plain HTTP with the absolute URL (RFC 9112, 3.2.2)."""
        if self.proxy is None or self._address.scheme == "https":
            return request.head(request.target, {})
        return request.head(f"http://{self._address.netloc}{request.target}", self.proxy.headers)

    def connect(self, adopt: Adopt) -> Connection:
        """Open a connection; `adopt` is called with each socket before it blocks."""
        sock = self._reach(adopt)
        try:
            if self.proxy is not None and self._address.scheme == "https":
                _open_tunnel(self.proxy, Connection(sock, self._timeout, []), self._address)
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
        """Connect to the address or the proxy, first by the address family that worked last time."""
        host, port = (self.proxy or self._address).host, (self.proxy or self._address).port
        found = _addresses(host, port)
        found.sort(key=lambda one: one[0] != self._family)
        error = OSError("the name has no address")
        longest = min(_CONNECT_TIMEOUT, self._timeout)
        for family, kind, protocol, _, address in found:
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, kind, protocol)  # not every kernel has every family
                adopt(sock)
                prepare(sock, min(longest, max(longest / len(found), _LEAST_SHARE)))
                sock.connect(address)
                sock.settimeout(longest)
                self._family = family
                proxy_speaks_tls = self.proxy is not None and self.proxy.speaks_tls
                return with_tls(sock, host, self._ca_bundle, adopt) if proxy_speaks_tls else sock
            except OSError as failed:
                error = _named(failed, f"{host}:{port}")
                adopt(None)
                if sock is not None:
                    sock.close()
        raise error


def _addresses(host: str, port: int) -> list[Any]:
    name = host.encode() if host.isascii() else host  # bytes need no codec for names that are not ASCII
    try:
        return list(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
    except OSError as error:
        raise _named(error, host) from None


def _named(error: OSError, host: str) -> OSError:
    """Return the error of a failed connect, with the name of the host."""
    if isinstance(error, TimeoutError) and not error.strerror:
        return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), host)
    if error.strerror:  # the others have texts of their own
        error.filename = host
    return error


def _close_all(idle: list[Connection]) -> None:
    while idle:
        with suppress(IndexError):
            idle.pop().close()


def _open_tunnel(proxy: Proxy, connection: Connection, address: Address) -> None:
    """Have a proxy connect to a service (RFC 9110, 9.3.6).

    Raises
    ------
    ProxyError
        When the proxy refuses.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
    connection.send("\r\n".join([*lines, "", ""]).encode("latin-1"), b"", lambda _: None)
    status = connection.response("CONNECT").status
    if status != 200:
        raise ProxyError(f"the proxy {proxy.host}:{proxy.port} answered HTTP {status}", status)


class CaBundleError(OSError):
    """The file of certificates cannot be used."""


def prepare(sock: socket.socket, timeout: float) -> None:
    """Set the options of a socket before it is connected; `timeout` in seconds."""
    sock.settimeout(timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with suppress(AttributeError, OSError):  # not every system has the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT)


@cache
def _tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Return the TLS settings; reading the system's authorities takes 20 ms, so all stores share them."""
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:
        raise CaBundleError(f"cannot use the certificates in {ca_bundle}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def with_tls(sock: socket.socket, host: str, ca_bundle: str | None, adopt: Adopt) -> socket.socket:
    """Return the socket with TLS on it, after the handshake; the certificate is checked."""
    context = _tls_context(ca_bundle)
    if isinstance(sock, ssl.SSLSocket):
        from urllib3.util.ssltransport import SSLTransport  # TLS inside a proxy's TLS, which `ssl` cannot do

        return SSLTransport(sock, context, server_hostname=host)  # type: ignore[return-value]  # like a socket
    secured = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        adopt(secured)  # the plain one is empty now
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured
