"""The faults that `FaultProxy` can make. Each is a small object with hooks along one exchange.

A fault is given to `FaultProxy.add` and belongs to that one rule; it tells how often it has struck.
"""
# ruff: noqa: ARG002 - the hooks of all faults share one signature

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import threading
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.servers.exchange import Exchange

WRONG_ETAG = '"00000000000000000000000000000bad"'


class CutError(Exception):
    """Ends the connection, after passing on the bytes in `last`."""

    def __init__(self, last: bytes = b"") -> None:
        super().__init__()
        self.last = last


class FrozenError(CutError):
    """Leaves the connection open and says nothing more, after passing on the bytes in `last`."""


class AnsweredError(Exception):
    """Has the proxy answer by itself; the request never reaches the server."""

    def __init__(self, status: int, code: str, headers: dict[str, str]) -> None:
        super().__init__()
        self.status, self.code, self.headers = status, code, headers


class Fault:
    """Base of all faults: every hook lets things pass.

    `fails_every_attempt` says that a request it strikes fails, and is worth another attempt: a client tries until
    its timeout.
    """

    fails_every_attempt = False

    def __init__(self) -> None:
        self.hits = 0
        self._reached = threading.Event()

    def strike(self) -> None:
        """Note that the fault takes effect now."""
        self.hits += 1
        self._reached.set()

    def wait_reached(self, timeout: float = 20.0) -> None:
        """Wait, in the test, until the fault has taken effect once."""
        if not self._reached.wait(timeout):
            raise AssertionError(f"{type(self).__name__} was not reached in {timeout} s")

    async def on_request(self, exchange: Exchange) -> None:
        """Act when the request's head is known and nothing has been forwarded."""

    async def on_request_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        """Act on a piece of the request's body before it is forwarded."""
        return piece

    async def on_answer(self, exchange: Exchange) -> None:
        """Act when the server has answered and the client has seen nothing of it."""

    async def on_answer_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        """Act on a piece of the answer's body before the client gets it."""
        return piece


class Refuse(Fault):
    """Close the connection at once: at accept when the rule matches everything, else after the head."""

    fails_every_attempt = True

    async def on_request(self, exchange: Exchange) -> None:
        self.strike()
        raise CutError


class _AtByte(Fault):
    """Something that happens after so many body bytes of the request, or else of the answer."""

    error: type[CutError]

    def __init__(self, *, request_bytes: int | None = None, answer_bytes: int | None = None) -> None:
        super().__init__()
        self._request_bytes = 0 if request_bytes is None and answer_bytes is None else request_bytes
        self._answer_bytes = answer_bytes
        self.fails_every_attempt = answer_bytes is None

    def _check(self, limit: int | None, passed: int, piece: bytes) -> bytes:
        if limit is not None and passed + len(piece) >= limit:
            self.strike()
            raise self.error(piece[: limit - passed])
        return piece

    async def on_request(self, exchange: Exchange) -> None:
        if self._request_bytes == 0:
            self._check(0, 0, b"")

    async def on_request_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        return self._check(self._request_bytes, exchange.record.request_bytes, piece)

    async def on_answer(self, exchange: Exchange) -> None:
        if self._answer_bytes == 0:
            self._check(0, 0, b"")

    async def on_answer_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        return self._check(self._answer_bytes, exchange.record.answer_bytes, piece)


class Drop(_AtByte):
    """Cut the connection after so many bytes of the request's body, or of the answer's.

    Without arguments the connection is cut when the request's head has been read. With `answer_bytes=0`
    the server has done the work and the client sees no answer at all.
    """

    error = CutError


class Stall(_AtByte):
    """Like `Drop`, but the connection stays open and silent, and nothing more is read from it."""

    error = FrozenError


class Status(Fault):
    """Answer with an error of our own; the request does not reach the server."""

    def __init__(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.fails_every_attempt = status >= 500
        self._answer = AnsweredError(status, code, headers or {})

    async def on_request(self, exchange: Exchange) -> None:
        self.strike()
        raise AnsweredError(self._answer.status, self._answer.code, self._answer.headers)


class LoseResponse(Fault):
    """Have the server do the whole request, then cut the connection without passing its answer on."""

    async def on_answer(self, exchange: Exchange) -> None:
        await exchange.take_answer()
        self.strike()
        raise CutError


class WrongEtag(Fault):
    """Answer with another ETag: in the header, and in the XML of a completed multipart upload."""

    def __init__(self, etag: str = WRONG_ETAG) -> None:
        super().__init__()
        self._etag = etag

    async def on_answer(self, exchange: Exchange) -> None:
        if exchange.answer.get("ETag"):
            exchange.answer.replace("ETag", self._etag)
        if exchange.record.operation == "complete":
            body = (await exchange.take_answer()).decode()
            xml = f"<ETag>{self._etag.replace(chr(34), '&quot;')}</ETag>"
            exchange.give_answer(re.sub("<ETag>.*?</ETag>", xml, body).encode())
        self.strike()


class WrongDate(Fault):
    """Answer as a service whose clock is so many seconds ahead of ours."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def on_answer(self, exchange: Exchange) -> None:
        exchange.answer.replace("Date", formatdate(time.time() + self._seconds, usegmt=True))
        self.strike()


class Corrupt(Fault):
    """Flip all bits of one byte in the answer's body; every header stays as it was."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self._at = at

    async def on_answer_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        index = self._at - exchange.record.answer_bytes
        if not 0 <= index < len(piece):
            return piece
        self.strike()
        return piece[:index] + bytes([piece[index] ^ 0xFF]) + piece[index + 1 :]


class Truncate(Fault):
    """Give only the first bytes of the body and say that this is all (`Drop` gives an honest short one)."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self._keep = keep

    async def on_answer(self, exchange: Exchange) -> None:
        if body := await exchange.take_answer():  # an answer to HEAD has none, but tells a length
            exchange.give_answer(body[: self._keep])
            self.strike()


class Throttle(Fault):
    """Pass so many bytes per second, counted over all connections the rule matches."""

    def __init__(self, *, up: float | None = None, down: float | None = None) -> None:
        super().__init__()
        self._rates = {"up": up, "down": down}
        self._free_at = {"up": 0.0, "down": 0.0}

    async def on_request(self, exchange: Exchange) -> None:
        self.strike()
        rates = [rate for rate in self._rates.values() if rate]
        # Small pieces, so that the line is slow all the time and not silent and then fast.
        exchange.piece_size = min([exchange.piece_size, *(max(1, int(rate / 20)) for rate in rates)])

    async def on_request_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        await self._wait("up", len(piece))
        return piece

    async def on_answer_piece(self, exchange: Exchange, piece: bytes) -> bytes:
        await self._wait("down", len(piece))
        return piece

    async def _wait(self, way: Literal["up", "down"], size: int) -> None:
        if rate := self._rates[way]:
            now = asyncio.get_running_loop().time()
            self._free_at[way] = max(self._free_at[way], now) + size / rate
            await asyncio.sleep(self._free_at[way] - now)


class Hold(Fault):
    """Stop until the test calls `release`, before the server gets the request or after it has answered.

    After the release everything passes, also later requests that match.
    """

    def __init__(self, when: Literal["before", "after"] = "before") -> None:
        super().__init__()
        self._when = when
        self._released: concurrent.futures.Future[None] = concurrent.futures.Future()

    def release(self) -> None:
        """Let go on what is held."""
        if not self._released.done():
            self._released.set_result(None)

    async def on_request(self, exchange: Exchange) -> None:
        if self._when == "before":
            await self._wait()

    async def on_answer(self, exchange: Exchange) -> None:
        if self._when == "after":
            await exchange.take_answer()  # only a complete answer proves that the server is done
            await self._wait()

    async def _wait(self) -> None:
        self.strike()
        await asyncio.shield(asyncio.wrap_future(self._released))
