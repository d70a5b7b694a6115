"""fsspec's ``sftp://`` works with the SFTP server as the tests use it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from tests.servers.sftp_or_ftp import SftpServer, sftp_server

NAMES = ["plain", "sp ace+%20#?*[x]", "ünï"]


@pytest.fixture(scope="module")
def server() -> Iterator[SftpServer]:
    """One server for all."""
    with sftp_server() as running:
        yield running


@pytest.fixture
def filesystem(server: SftpServer) -> Iterator[Any]:
    """A connected filesystem."""
    connected, _ = fsspec.core.url_to_fs(server.url, skip_instance_cache=True, **server.storage_options)
    yield connected
    connected.client.close()


@pytest.mark.parametrize("name", NAMES)
def test_put_get_and_look(server: SftpServer, filesystem: Any, name: str, tmp_path: Any) -> None:
    (tmp_path / "source").write_bytes(b"0123456789" * 10_000)
    filesystem.makedirs("/put", exist_ok=True)
    filesystem.put_file(str(tmp_path / "source"), f"/put/{name}")
    assert (server.directory / "put" / name).read_bytes() == (tmp_path / "source").read_bytes()
    assert filesystem.info(f"/put/{name}")["size"] == 100_000
    assert f"/put/{name}" in filesystem.ls("/put", detail=False)
    filesystem.get_file(f"/put/{name}", str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_ranges(filesystem: Any) -> None:
    filesystem.pipe_file("/digits", b"0123456789")
    assert filesystem.cat_file("/digits", start=3, end=6) == b"345"


def test_a_rename_replaces(server: SftpServer, filesystem: Any) -> None:
    filesystem.pipe_file("/old", b"old")
    filesystem.pipe_file("/new", b"new")
    filesystem.mv("/new", "/old")
    assert (server.directory / "old").read_bytes() == b"new"
    assert not filesystem.exists("/new")


def test_what_is_missing(filesystem: Any) -> None:
    with pytest.raises(FileNotFoundError):
        filesystem.info("/none")
    filesystem.pipe_file("/gone", b"")
    filesystem.rm_file("/gone")
    assert not filesystem.exists("/gone")


def test_changes_on_disk_are_seen_at_once(server: SftpServer, filesystem: Any) -> None:
    (server.directory / "direct").write_bytes(b"1")
    assert filesystem.cat_file("/direct") == b"1"
    (server.directory / "direct").write_bytes(b"22")
    assert filesystem.cat_file("/direct") == b"22"
