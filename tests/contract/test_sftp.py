"""The contract suites over SFTP, against a real server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from fsbackup.backends import GenericStorage
from fsbackup.loop import run
from fsbackup.stores.generic.store import GenericStore
from fsbackup.testing import BackendPlace, ObjectPlace, ObjectStoreContract, Place, StorageBackendContract
from tests.contract.raw_access import directory_access
from tests.contract.sftpd import running_sftpd
from tests.servers.sftp_or_ftp import SftpServer


@pytest.fixture(scope="module")
def server() -> Iterator[SftpServer]:
    """Return a running server."""
    with running_sftpd() as running:
        yield running


class TestSftpObjects(ObjectStoreContract):
    """Files on a server."""

    part_size = 64 * 1024
    nested_names = False

    @pytest.fixture
    def place(self, server: SftpServer) -> Iterator[ObjectPlace]:
        """Return a directory of the server that nobody else uses."""
        root = secrets.token_hex(8)
        store = GenericStore(server.url + root, options=server.storage_options)
        yield Place(store, directory_access(server.directory / root))
        run(store.close())


@pytest.mark.matrix
class TestSftpStorage(StorageBackendContract):
    """The five methods; broken is a wrong password."""

    @pytest.fixture
    def place(self, server: SftpServer) -> BackendPlace:
        """Return a directory of the server that nobody else uses."""
        root, options = secrets.token_hex(8), server.storage_options
        wrong = {**options, "password": "wrong"}
        return BackendPlace(
            backend=lambda errors: GenericStorage(server.url + root, options=options, errors=errors),
            broken=lambda errors: GenericStorage(server.url + root, options=wrong, errors=errors),
            raw=directory_access(server.directory / root),
        )
