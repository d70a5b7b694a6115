"""HTTP/1.1 over a blocking socket, perhaps with TLS: one request and its response at a time.

The heads of responses and the chunk headers of bodies are parsed here, with limits; the standard library reads the
bodies, and its caller limits their length.
"""

from __future__ import annotations

import io
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, UnknownProtocol
from typing import Any

#: Seconds after which an idle connection is not used again; servers close theirs later.
_KEEPALIVE = 12.0
#: Bytes passed to the kernel at a time, and the largest body that is sent together with the head.
_CHUNK, _TOGETHER = 512 * 1024, 64 * 1024
#: Least bytes or seconds between two reports: TLS moves 16 KiB at a time, and slow lines less.
_REPORT_BYTES, _REPORT_SECONDS = 128 * 1024, 0.05
#: Most header fields of a response, and most bytes of one, as in the standard library.
_MOST_FIELDS, _LONGEST_LINE = 100, 65536
#: Most interim responses ("100 Continue", "103 Early Hints") before the final one.
_MOST_INTERIM = 8
#: The size of a chunk (RFC 9112, 7.1), of at most 64 bits.
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
#: A line that continues the previous one (RFC 9112, 5.2).
_FOLDED = re.compile(r"(?:^|\n)[ \t]")
#: Small responses arrive in one call; larger reads bypass this buffer.
_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed request; `target` is path and query, encoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | memoryview = b""

    def head(self, target: str, extra: Mapping[str, str]) -> bytes:
        """Return the request line and the headers, encoded.

        Raises
        ------
        ValueError
            When a header contains a line break, or is not Latin-1.
        """
        lines = [f"{self.method} {target} HTTP/1.1", "Accept-Encoding: identity"]
        headers = {**self.headers, **extra} if extra else self.headers
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.body or self.method in ("PUT", "POST"):
            lines.append(f"Content-Length: {len(self.body)}")
        text = "\r\n".join([*lines, "", ""])
        if not text.count("\r") == text.count("\n") == len(lines) + 1:
            raise ValueError("a header must be one line")
        return text.encode("latin-1")


class _Reader(io.BufferedReader):
    """The buffered input of one connection. `HTTPResponse` closes it after each response, which does nothing."""

    def close(self) -> None:
        """Leave it open."""


class _Input(io.RawIOBase):
    """The bytes that arrive on a socket; `on_bytes` is called with their number."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.on_bytes: Callable[[int], None] = lambda _: None
        self.received = self._reported = 0
        self._reported_at = 0.0
        self.at_end = False
        #: Whether `readinto` reports no data without reading the socket.
        self.is_paused = False

    def begin(self, on_bytes: Callable[[int], None]) -> None:
        """Start counting."""
        self.on_bytes, self.received, self._reported = on_bytes, 0, 0

    def report(self) -> None:
        """Call `on_bytes` with the number of bytes since the last report."""
        new, self._reported = self.received - self._reported, self.received
        if new:
            self.on_bytes(new)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # a narrower buffer suffices
        if self.is_paused:
            return None
        try:
            count = self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        self.at_end = not count
        self.received += count
        now = time.monotonic()
        if self.received - self._reported >= _REPORT_BYTES or now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            self.report()
        return count


class _Response(HTTPResponse):
    """A response whose `headers` are a dict with lower-case names: `email.message` takes ten times as long."""

    def begin(self) -> None:
        """Read the head of the final response, after interim ones (RFC 9110, 15.2)."""
        this: Any = self
        version, status, reason, fields = self._read_head()
        self.code = self.status = status
        self.reason = reason.strip()
        if not version.startswith("HTTP/1."):
            raise UnknownProtocol(version)
        self.version = 10 if version == "HTTP/1.0" else 11
        this.headers = this.msg = fields
        self.chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        this.chunk_left = None
        length = fields.get("content-length", "")
        self.length = int(length) if length.isdecimal() and not self.chunked else None
        if status in (204, 304) or this._method == "HEAD":
            self.length = 0
        # Without a length the body ends with the connection.
        self.will_close = this._check_close() or (self.length is None and not self.chunked)

    def _read_head(self) -> tuple[str, int, str, dict[str, str]]:
        """Return version, status, reason and fields of the final response.

        If an interim response were taken for it, the next request on this connection would read the final one.
        """
        this: Any = self
        for _ in range(_MOST_INTERIM + 1):
            version, status, reason = this._read_status()
            fields = _read_fields(this.fp)
            if status == 101:
                raise HTTPException("the service switched to a protocol that was not requested")
            if status >= 200:
                return version, status, reason, fields
        raise HTTPException(f"more than {_MOST_INTERIM} interim responses came before the final one")

    def _read_next_chunk_size(self) -> int:
        """Return the size of the next chunk; the standard library reads to the end for a negative one."""
        this: Any = self
        line = this.fp.readline(_LONGEST_LINE + 1)
        size = line.partition(b";")[0].strip()  # extensions follow
        if not line.endswith(b"\n") or not _CHUNK_SIZE.fullmatch(size):
            raise HTTPException("the size of a chunk is not a hexadecimal number, or is cut off")
        return int(size, 16)

    def _read_and_discard_trailer(self) -> None:
        """Skip the fields after the last chunk, with the limits of the head."""
        _read_fields(self.fp)


def _read_fields(source: io.BufferedReader) -> dict[str, str]:
    """Return the header fields of a response.

    Raises
    ------
    HTTPException
        When they are malformed, too long or too many, or the connection ends before they do.
    """
    if (lines := _whole_lines(source)) is not None:
        parts = [line.partition(":") for line in lines]
        if not all(colon for _, colon, _ in parts):
            raise HTTPException("a header line has no name")
        return {name.lower(): value.strip() for name, _, value in parts}
    fields: dict[str, str] = {}
    name = ""
    for _ in range(_MOST_FIELDS + 1):
        line = source.readline(_LONGEST_LINE + 1)
        if len(line) > _LONGEST_LINE or not line.endswith(b"\n"):
            raise HTTPException("a header line is too long, or cut off")
        text = line.decode("latin-1")
        if not (value := text.strip()):
            return fields
        if text[0] in " \t":  # a folded line (RFC 9112, 5.2)
            fields[name] = f"{fields.get(name, '')} {value}"
            continue
        name, colon, value = text.partition(":")
        if not colon:
            raise HTTPException("a header line has no name")
        name = name.lower()
        fields[name] = value.strip()
    raise HTTPException(f"the response has more than {_MOST_FIELDS} headers")


def _whole_lines(source: io.BufferedReader) -> list[str] | None:
    """Return the header lines if all have arrived and none is folded; None if they must be read one by one."""
    arrived = source.peek(1)
    text = arrived[: max(arrived.find(b"\r\n\r\n"), 0)].decode("latin-1")
    lines = text.split("\r\n")
    if not lines[0] or text.count("\n") != len(lines) - 1 or len(lines) > _MOST_FIELDS or _FOLDED.search(text):
        return None
    source.read(len(text) + 4)
    return lines


class Connection:
    """One connection; used by one thread at a time."""

    def __init__(self, sock: socket.socket, timeout: float, pool: list[Connection]) -> None:
        self.socket = sock
        self.pool = pool
        self.last_used = 0.0
        self._timeout = timeout
        self._quiet = select.poll()
        self._quiet.register(sock, select.POLLIN)
        #: Returns how many bytes TLS has buffered; None where that is unknown, as for TLS inside TLS.
        self._held = sock.pending if isinstance(sock, ssl.SSLSocket) else None
        self._is_plain = type(sock) is socket.socket
        self._input = _Input(sock)
        self._reader = _Reader(self._input, _BUFFER)

    def begin(self, on_bytes: Callable[[int], None]) -> None:
        """Start an exchange."""
        if self.socket.gettimeout() != self._timeout:
            self.socket.settimeout(self._timeout)
        self._input.begin(on_bytes)

    def finish(self) -> None:
        """Report the last bytes of an exchange."""
        self._input.report()

    @property
    def has_answered(self) -> bool:
        """Whether a byte has arrived since `begin`."""
        return self._input.received > 0

    def send(self, head: bytes, body: bytes | memoryview, on_sent: Callable[[int], None]) -> None:
        """Send a request; `on_sent` is called with the number of body bytes sent so far."""
        runs: list[tuple[bytes | memoryview, bool]]
        runs = [(b"".join((head, body)), False)] if len(body) <= _TOGETHER else [(head, False), (body, True)]
        for data, is_body in runs:
            # Not `sendall`: its timeout limits the whole transfer, not the time without progress.
            left, position, reported = memoryview(data), 0, 0
            reported_at = time.monotonic()
            while position < len(left):
                position += self.socket.send(left[position : position + _CHUNK])
                now = time.monotonic()
                is_due = position - reported >= _REPORT_BYTES or now - reported_at >= _REPORT_SECONDS
                if is_body and is_due:
                    reported, reported_at = position, now
                    on_sent(position)
        on_sent(len(body))

    def ask(self, head: bytes, request: Signed, on_sent: Callable[[int], None]) -> tuple[HTTPResponse, bool]:
        """Send a request; return the response, and whether all of the request was sent."""
        try:
            self.send(head, request.body, on_sent)
        except TimeoutError:
            raise
        except OSError as error:
            # A service may refuse a body and close before it has read all of it: its response says why.
            with suppress(OSError, HTTPException):
                response = self.response(request.method)
                if response.status >= 300:
                    return response, False
            raise error
        return self.response(request.method), True

    def response(self, method: str) -> HTTPResponse:
        """Read the head of the response."""
        response = _Response(self, method=method)  # type: ignore[arg-type]  # it only calls `makefile`
        response.begin()
        return response

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - as of a socket
        """Return the input, for `HTTPResponse`."""
        return self._reader

    @property
    def is_old(self) -> bool:
        """Whether it has been idle for so long that the server may close it at any time."""
        return time.monotonic() - self.last_used > _KEEPALIVE

    def is_usable(self) -> bool:
        """Tell whether the server has neither closed an idle connection nor sent unsolicited bytes."""
        if self.is_old:
            return False
        try:
            if self._is_quiet():
                return True
            self.socket.settimeout(0)
            return not self._reader.peek(1) and not self._input.at_end
        except OSError:
            return False

    def _is_quiet(self) -> bool:
        """Tell whether nothing has arrived, also none that TLS has buffered; costs one system call."""
        self._input.is_paused = True
        buffered = self._reader.peek(1)
        self._input.is_paused = False
        held = 0 if self._is_plain else 1 if self._held is None else self._held()
        return not buffered and not held and not self._quiet.poll(0)

    def close(self) -> None:
        """Close it, without a TLS shutdown: after a fork the connection may be the parent's."""
        with suppress(OSError):
            self.socket.close()


def begin_body(response: HTTPResponse) -> int:
    """Return how many bytes of a body have arrived with its head; from now on only body bytes are reported."""
    reader: Any = response.fp
    if reader is None:
        return 0
    arrived = 0 if response.length == 0 else len(reader.peek(1))
    reader.raw.report()  # those of the head, which are not counted yet
    return arrived


def shut_down(sock: socket.socket) -> None:
    """Wake the thread that waits for a socket, and that closes it: a closed descriptor may be reused at once."""
    raw = getattr(sock, "socket", sock)  # of TLS inside TLS
    with suppress(OSError):
        # The plain socket's method: that of a TLS socket removes TLS first, and the thread would send plain text.
        socket.socket.shutdown(raw, socket.SHUT_RDWR)
