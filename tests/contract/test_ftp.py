"""The contract suites over FTP, against a real server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fsbackup.loop import run
from fsbackup.stores.generic.store import GenericStore
from fsbackup.testing import ObjectPlace, ObjectStoreContract, Place
from tests.contract.ftpd import FtpServer, running_ftpd
from tests.contract.raw_access import directory_access

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
        raw = directory_access(server.directory / root)

        def put(name: str, data: bytes) -> None:
            raw.put(name, data)
            server.forget()

        store = GenericStore(server.url + root, options=server.storage_options)
        yield Place(store, replace(raw, put=put))
        run(store.close())
