"""The contract suites over FTP, against a real server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fsbackup.loop import run
from fsbackup.stores.generic.store import GenericObjects
from fsbackup.testing import ObjectPlace, ObjectStoreContract, Place
from tests.contract.doors import directory_door
from tests.contract.ftpd import FtpServer, running_ftpd

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def server() -> Iterator[FtpServer]:
    """Return a running server."""
    with running_ftpd() as running:
        yield running


class TestFtpObjects(ObjectStoreContract):
    """Files on a server."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self, server: FtpServer) -> Iterator[ObjectPlace]:
        """Return a directory of the server that nobody else uses."""
        root = secrets.token_hex(8)
        door = directory_door(server.directory / root)

        def put(name: str, data: bytes) -> None:
            door.put(name, data)
            server.forget()

        store = GenericObjects(server.url + root, options=server.storage_options)
        yield Place(store, replace(door, put=put))
        run(store.close())
