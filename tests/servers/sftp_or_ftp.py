"""An SFTP server on loopback: `rclone serve sftp` over a folder, for fsspec's ``sftp://``."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from tests.servers.ports import LOOPBACK
from tests.servers.process import ServerSpec, Workplace, find_binary, running_server

_USER = "tester"


@dataclass(frozen=True)
class SftpServer:
    """A running SFTP server.

    Attributes
    ----------
    url
        The URL of its root, for fsspec.
    storage_options
        What fsspec needs besides: port and password.
    directory
        The folder on disk that it serves, to look at what is really there.
    """

    url: str
    storage_options: dict[str, Any]
    directory: Path


@contextmanager
def sftp_server(*extra: str) -> Iterator[SftpServer]:
    """Run an SFTP server over an empty folder; `extra` are more arguments of rclone."""
    password = secrets.token_hex(16)
    spec = ServerSpec(
        command=lambda place: _command(place, password, extra),
        probe=lambda place: _sign_in(_options(place, password)),
    )
    with running_server(spec) as place:
        yield SftpServer(f"sftp://{LOOPBACK}/", _options(place, password), place.folder / "data")


def _options(place: Workplace, password: str) -> dict[str, Any]:
    credentials = {"username": _USER, "password": password}
    # Never the keys of whoever runs the tests: paramiko would offer them all first.
    return {"port": place.port, **credentials, "look_for_keys": False, "allow_agent": False}


def _sign_in(options: dict[str, Any]) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(LOOPBACK, **options)
        with client.open_sftp() as sftp:
            sftp.listdir("/")


def _command(place: Workplace, password: str, extra: Sequence[str]) -> list[str]:
    data = place.folder / "data"
    data.mkdir()
    return [
        find_binary("rclone"),
        "serve",
        "sftp",
        f"--config={place.folder / 'no-config'}",
        f"--cache-dir={place.folder / 'cache'}",  # for its host keys, and files that are being written
        f"--addr={LOOPBACK}:{place.port}",
        f"--user={_USER}",
        f"--pass={password}",
        "--dir-cache-time=0s",  # what a test does to the folder itself is seen at once
        *extra,
        str(data),
    ]
