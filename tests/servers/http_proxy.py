"""An HTTP proxy on loopback that asks for a password: CONNECT for TLS, whole URLs for plain HTTP."""

from __future__ import annotations

import base64
import selectors
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, urlsplit

import trustme

from tests.servers.ports import LOOPBACK

USER, PASSWORD = "proxy-user", "pr0xy/p@ss:word"


@dataclass
class ProxyPlace:
    """Where the proxy is, and what it was asked for: ``CONNECT host:port``, or the method and the URL.

    `upstream` is the ``host:port`` that every name is taken to be, None to resolve them.
    """

    url: str
    upstream: str | None = None
    asked: list[str] = field(default_factory=list)

    def with_login(self, user: str = USER, password: str = PASSWORD) -> str:
        """Return the URL with a user and a password."""
        return self.url.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@")


@contextmanager
def http_proxy(tls_folder: Path | None = None) -> Iterator[ProxyPlace]:
    """Run a proxy; with `tls_folder` it speaks TLS, and its authority is ``proxy-ca.pem`` there."""
    place = ProxyPlace("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _is_allowed(self) -> bool:
            place.asked.append(f"{self.command} {self.path}")
            login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers.get("Proxy-Authorization") == f"Basic {login}":
                return True
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def do_CONNECT(self) -> None:
            if not self._is_allowed():
                return
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port))) as there:
                self.send_response(200)
                self.end_headers()
                _relay(self.connection, there)
            self.close_connection = True

        def _forward(self) -> None:
            if not self._is_allowed():
                return
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
            there = HTTPConnection(place.upstream or url.netloc)
            there.request(self.command, url.path + (f"?{url.query}" if url.query else ""), body, headers)
            answer = there.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            there.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward  # noqa: N815 - the names are the class's

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if tls_folder is not None:
        scheme, authority = "https", trustme.CA()
        authority.cert_pem.write_to_path(str(tls_folder / "proxy-ca.pem"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(LOOPBACK).configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    place.url = f"{scheme}://{LOOPBACK}:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until one side closes."""
    with suppress(OSError), selectors.DefaultSelector() as selector:  # select.select knows 1,024 descriptors
        for each in (one, other):
            selector.register(each, selectors.EVENT_READ, each)
        while True:
            pending = isinstance(one, ssl.SSLSocket) and one.pending()
            ready = [one] if pending else [key.data for key, _ in selector.select()]
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                (other if sock is one else one).sendall(data)
