"""Ports on loopback at which nobody serves: each dead in another way, as a service that is away is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from tests.servers.endpoint import S3Endpoint
from tests.servers.ports import LOOPBACK, claimed_ports


@contextmanager
def refusing() -> Iterator[int]:
    """Yield a port that refuses connections."""
    with claimed_ports(1) as (port,):
        yield port


@contextmanager
def swallowing() -> Iterator[int]:
    """Yield a port at which connections are made, and what is sent is never read nor answered."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(1024)
        yield listener.getsockname()[1]


@contextmanager
def dropping() -> Iterator[int]:
    """Yield a port whose queue is full, so that the kernel drops every SYN: nobody even says no."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


DEAD: Mapping[str, Callable[[], AbstractContextManager[int]]] = {
    "refused": refusing,
    "swallowed": swallowing,
    "dropped": dropping,
}


def moved(endpoint: S3Endpoint, port: int) -> S3Endpoint:
    """Return the endpoint as if it were at this port."""
    return replace(endpoint, endpoint_url=f"http://{LOOPBACK}:{port}", ca_bundle=None)
