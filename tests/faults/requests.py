"""Something done by the test at one request on its way through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from tests.servers.exchange import Exchange
from tests.servers.fault_kinds import CutError, Fault


class CallAtRequest(Fault):
    """Call something before the server gets a request, or after it has answered; then pass it on, or cut it."""

    def __init__(self, side: Literal["before", "after"], act: Callable[[], None], *, cut: bool = False) -> None:
        super().__init__()
        self._side, self._act_now, self._cut = side, act, cut

    async def on_request(self, exchange: Exchange) -> None:  # noqa: ARG002 - the hook's
        if self._side == "before":
            await self._act()

    async def on_answer(self, exchange: Exchange) -> None:
        if self._side == "after":
            await exchange.take_answer()  # only a complete answer proves that the server is done
            await self._act()

    async def _act(self) -> None:
        self.strike()
        await asyncio.to_thread(self._act_now)
        if self._cut:
            raise CutError
