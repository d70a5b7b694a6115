"""The contract suites over SFTP, against a real server."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from subprocess import PIPE, Popen

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


#: Creates a key for each line of its input, and says whether it did.
_CREATE = """
import io, json, sys
from fsbackup import ReplicatedStorage
from fsbackup.backends import GenericStorage
url, options, text = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
store = ReplicatedStorage([GenericStorage(url, options=options)])
for line in sys.stdin:
    print(store.replicate(io.BytesIO(text.encode()), line.strip()).status, flush=True)
"""


def test_of_two_processes_that_create_one_key_one_does(server: SftpServer) -> None:
    """The server cannot refuse to replace what is there: their write intents keep them apart."""
    root, contents = secrets.token_hex(8), ["one" * 9000, "two" * 9000]
    command = [sys.executable, "-c", _CREATE, server.url + root, json.dumps(server.storage_options)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(Popen([*command, each], stdin=PIPE, stdout=PIPE, text=True, bufsize=1))
            for each in contents
        ]
        for number in range(6):
            outcomes = _in_step(writers, f"key{number}")
            assert sorted(outcomes) == ["complete", "failed"], number
            stored = (server.directory / root / f"key{number}").read_text()
            assert stored == contents[outcomes.index("complete")]


def _in_step(processes: Sequence[Popen[str]], line: str) -> list[str]:
    """Give all a line at once, and return what each answers."""
    for each in processes:
        assert each.stdin is not None
        each.stdin.write(f"{line}\n")
    return [each.stdout.readline().strip() for each in processes if each.stdout is not None]
