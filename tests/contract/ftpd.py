"""`rclone serve ftp` over a folder. It caches directories; raw access clears that cache."""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ftplib import FTP
from pathlib import Path
from typing import Any

from tests.servers.ports import LOOPBACK
from tests.servers.process import ServerSpec, Workplace, find_binary, running_server

_USER = "tester"


@dataclass(frozen=True)
class FtpServer:
    """A running FTP server: its URL for fsspec, what fsspec needs besides, its folder, and how it forgets."""

    url: str
    storage_options: dict[str, Any]
    directory: Path
    forget: Callable[[], None]


@contextmanager
def running_ftpd() -> Iterator[FtpServer]:
    """Run the server over an empty folder."""
    password = secrets.token_hex(16)
    spec = ServerSpec(
        command=lambda place: _command(place, password),
        probe=lambda place: _sign_in(place.port, password),
        ports=2,
    )
    with running_server(spec) as place:
        options = {"port": place.port, "username": _USER, "password": password}
        yield FtpServer(f"ftp://{LOOPBACK}/", options, place.folder / "data", lambda: _forget(place.ports[1]))


def _forget(port: int) -> None:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}/vfs/forget", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def _sign_in(port: int, password: str) -> None:
    with FTP(timeout=5) as ftp:
        ftp.connect(LOOPBACK, port)
        ftp.login(_USER, password)


def _command(place: Workplace, password: str) -> list[str]:
    data = place.folder / "data"
    data.mkdir()
    return [
        find_binary("rclone"),
        "serve",
        "ftp",
        f"--config={place.folder / 'no-config'}",
        f"--cache-dir={place.folder / 'cache'}",
        f"--addr={LOOPBACK}:{place.port}",
        f"--user={_USER}",
        f"--pass={password}",
        "--rc",
        "--rc-no-auth",
        f"--rc-addr={LOOPBACK}:{place.ports[1]}",
        str(data),
    ]
