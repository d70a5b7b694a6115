"""One request and its answer on their way through the fault proxy."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.servers.endpoint import S3Endpoint
from tests.servers.fault_kinds import AnsweredError, CutError, Fault, FrozenError
from tests.servers.operations import Operation, S3Request
from tests.servers.wire import PIECE, Head, answer_pieces, finish, read_head, request_pieces

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Record:
    """What the proxy saw of one request.

    Attributes
    ----------
    request_bytes, answer_bytes
        Body bytes passed on so far, without framing.
    status
        The status the client was given; None when it got no answer.
    started, ended
        `time.monotonic` readings, to see what ran at the same time. `ended` is None while the request is
        going on, and for a moment after the client has its answer.
    """

    operation: Operation
    bucket: str
    key: str
    method: str
    query: dict[str, str]
    headers: list[tuple[str, str]]
    request_bytes: int = 0
    answer_bytes: int = 0
    status: int | None = None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    faults: list[str] = field(default_factory=list)


def record_of(head: Head, request: S3Request) -> Record:
    """Start the record of a request."""
    method = head.start.split(" ", 1)[0]
    return Record(request.operation, request.bucket, request.key, method, request.query, head.headers)


async def connect(endpoint: S3Endpoint) -> Stream:
    """Open a connection to the real server."""
    url = urlsplit(endpoint.endpoint_url)
    tls = ssl.create_default_context(cafile=endpoint.ca_bundle) if url.scheme == "https" else None
    return await asyncio.open_connection(url.hostname, url.port, ssl=tls)


class _ServerHasLeftError(Exception):
    """The server closed the connection while it was still being sent something."""


class Exchange:
    """Carries one exchange through, asking its faults at every step."""

    answer: Head

    def __init__(self, client: Stream, head: Head, record: Record, faults: Sequence[Fault]) -> None:
        self.record = record
        self.piece_size = PIECE
        self._client = client
        self._head = head
        self._faults = faults
        self._body: bytes | None = None
        self._answer_stream: AsyncIterator[bytes]

    async def run(self, endpoint: S3Endpoint) -> bool:
        """Do it all; return whether the client may use the connection again."""
        try:
            await self._ask_faults_about_request()
            return await self._forward(endpoint)
        except AnsweredError as error:
            return await self._answer_ourselves(error)
        except FrozenError:
            await asyncio.Event().wait()
        except (CutError, OSError, asyncio.IncompleteReadError):
            pass  # our caller closes the connection
        finally:
            self.record.ended = time.monotonic()
        return False

    async def take_answer(self) -> bytes:
        """Read the server's whole answer, to look at it or replace it."""
        if self._body is None:
            self._body = b"".join([piece async for piece in self._answer_stream])
        return self._body

    def give_answer(self, body: bytes) -> None:
        """Replace the answer's body, with headers that fit it."""
        self._body = body
        self.answer.remove("Transfer-Encoding")
        self.answer.replace("Content-Length", str(len(body)))

    async def _ask_faults_about_request(self) -> None:
        for fault in self._faults:
            await fault.on_request(self)

    async def _forward(self, endpoint: S3Endpoint) -> bool:
        server = await connect(endpoint)
        try:
            sent_all = await self._send_request(server[1])
            await self._receive_answer(server[0])
            return sent_all and not self.answer.closes
        finally:
            await finish(server[1])

    async def _send_request(self, server: asyncio.StreamWriter) -> bool:
        await self._invite_body()
        try:
            await _to_server(server, self._head.encode())
            async for piece in request_pieces(self._client[0], self._head, self.piece_size):
                await self._send_piece(server, piece)
            await _to_server(server, self._head.frame_end())
        except _ServerHasLeftError:  # with an answer before the end of the body, perhaps: pass it on
            return False
        return True

    async def _invite_body(self) -> None:
        """Answer ``Expect: 100-continue`` here; no signature covers that header."""
        if self._head.get("Expect"):
            self._head.remove("Expect")
            await self._to_client(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _send_piece(self, server: asyncio.StreamWriter, piece: bytes) -> None:
        try:
            for fault in self._faults:
                piece = await fault.on_request_piece(self, piece)
        except CutError as error:
            self.record.request_bytes += len(error.last)
            await _to_server(server, self._head.frame(error.last))
            raise
        self.record.request_bytes += len(piece)  # first, so that the test never sees less than the client
        await _to_server(server, self._head.frame(piece))

    async def _receive_answer(self, server: asyncio.StreamReader) -> None:
        self.answer = await self._final_head(server)
        self._answer_stream = answer_pieces(server, self.answer, self.record.method, self.piece_size)
        for fault in self._faults:
            await fault.on_answer(self)
        self.record.status = self.answer.status
        await self._to_client(self.answer.encode())
        async for piece in self._answer_body():
            await self._answer_piece(piece)
        await self._to_client(self.answer.frame_end())

    async def _final_head(self, server: asyncio.StreamReader) -> Head:
        while head := await read_head(server):
            if head.status >= 200:
                return head
        raise ConnectionResetError("the server closed without an answer")

    async def _answer_body(self) -> AsyncIterator[bytes]:
        if self._body is None:
            async for piece in self._answer_stream:
                yield piece
            return
        for start in range(0, len(self._body), self.piece_size):
            yield self._body[start : start + self.piece_size]

    async def _answer_piece(self, piece: bytes) -> None:
        try:
            for fault in self._faults:
                piece = await fault.on_answer_piece(self, piece)
        except CutError as error:
            self.record.answer_bytes += len(error.last)
            await self._to_client(self.answer.frame(error.last))
            raise
        self.record.answer_bytes += len(piece)
        await self._to_client(self.answer.frame(piece))

    async def _answer_ourselves(self, error: AnsweredError) -> bool:
        await self._invite_body()
        async for _ in request_pieces(self._client[0], self._head, PIECE):
            pass
        body = _error_xml(error.code, self.record.key)
        head = Head(f"HTTP/1.1 {error.status} {error.code}", list(error.headers.items()))
        head.replace("Content-Type", "application/xml")
        head.replace("Content-Length", str(len(body)))
        self.record.status = error.status
        await self._to_client(head.encode() + (b"" if self.record.method == "HEAD" else body))
        return True

    async def _to_client(self, data: bytes) -> None:
        self._client[1].write(data)
        await self._client[1].drain()


async def _to_server(server: asyncio.StreamWriter, data: bytes) -> None:
    try:
        server.write(data)
        await server.drain()
    except ConnectionError as error:
        raise _ServerHasLeftError from error


def _error_xml(code: str, key: str) -> bytes:
    safe = key.replace("&", "&amp;").replace("<", "&lt;")
    xml = f"<Error><Code>{code}</Code><Message>made by the test</Message><Key>{safe}</Key></Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode()
