"""As much of HTTP/1.1 as a proxy needs that forwards signed messages without touching them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

PIECE = 64 * 1024


class Head:
    """The start line and the headers of one message."""

    def __init__(self, start: str, headers: list[tuple[str, str]]) -> None:
        self.start = start
        self.headers = headers

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        """Read a head that ends with its blank line."""
        start, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(start, [(name, value.strip()) for name, _, value in pairs])

    def get(self, name: str, default: str = "") -> str:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def remove(self, name: str) -> None:
        """Drop a header."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]

    def replace(self, name: str, value: str) -> None:
        """Set a header, where it was sent before."""
        self.remove(name)
        self.headers.append((name, value))

    def encode(self) -> bytes:
        """Return the head as it goes over the wire."""
        lines = [self.start, *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks of its own framing."""
        return "chunked" in self.get("Transfer-Encoding").lower()

    @property
    def length(self) -> int | None:
        """The announced body length, or None."""
        value = self.get("Content-Length")
        return int(value) if value else None

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.start.split(" ", 2)[1])

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this message."""
        return self.get("Connection").lower() == "close" or self.start.startswith("HTTP/1.0")

    def frame(self, piece: bytes) -> bytes:
        """Return body bytes as this message frames them."""
        return b"%x\r\n%s\r\n" % (len(piece), piece) if self.is_chunked and piece else piece

    def frame_end(self) -> bytes:
        """Return what ends the body."""
        return b"0\r\n\r\n" if self.is_chunked else b""


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Return the next message's head, or None when the peer has closed between two messages."""
    try:
        return Head.parse(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ConnectionResetError("connection ended inside a message head") from error
        return None


async def finish(writer: asyncio.StreamWriter) -> None:
    """Close a connection after what was written has gone out, but do not wait for long."""
    try:
        writer.close()
        async with asyncio.timeout(1):
            await writer.wait_closed()
    except (TimeoutError, asyncio.CancelledError) as error:
        writer.transport.abort()  # the peer does not read, or does not answer the end of TLS
        if isinstance(error, asyncio.CancelledError):
            raise
    except OSError:
        pass  # the peer has gone


def request_pieces(reader: asyncio.StreamReader, head: Head, size: int) -> AsyncIterator[bytes]:
    """Yield the body of a request in pieces of at most `size` bytes, without its framing."""
    return _chunked(reader, size) if head.is_chunked else _sized(reader, head.length or 0, size)


def answer_pieces(reader: asyncio.StreamReader, head: Head, method: str, size: int) -> AsyncIterator[bytes]:
    """Yield the body of an answer in pieces of at most `size` bytes, without its framing."""
    if method == "HEAD" or head.status in {204, 304}:
        return _sized(reader, 0, size)
    if head.is_chunked:
        return _chunked(reader, size)
    return _until_close(reader, size) if head.length is None else _sized(reader, head.length, size)


async def _sized(reader: asyncio.StreamReader, length: int, size: int) -> AsyncIterator[bytes]:
    while length:
        piece = await reader.read(min(size, length))
        if not piece:
            raise ConnectionResetError("connection ended inside a body")
        length -= len(piece)
        yield piece


async def _until_close(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while piece := await reader.read(size):
        yield piece


async def _chunked(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while length := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        async for piece in _sized(reader, length, size):
            yield piece
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers end with an empty line
        pass
