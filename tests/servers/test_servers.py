"""The plain S3 servers store, list and delete, and the eye that looks at them sees it."""

from __future__ import annotations

import hashlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import EndpointConnectionError

from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.ports import claimed_ports
from tests.servers.process import (
    ServerDiedError,
    ServerSilentError,
    ServerSpec,
    Workplace,
    find_binary,
    running_server,
)

MIB = 1024 * 1024
PARTS = [b"a" * 5 * MIB, b"b" * 5 * MIB, b"tail"]


@pytest.fixture(params=["moto", "seaweedfs", "rclone"])
def server(request: pytest.FixtureRequest) -> S3Endpoint:
    """A fresh bucket on each of the plain servers."""
    endpoint: S3Endpoint = request.getfixturevalue(request.param)
    return s3.fresh_bucket(endpoint)


def test_stores_and_reads(server: S3Endpoint) -> None:
    answer = s3.put_bytes(server, "a/b c.gz", b"content", Metadata={"sha-256": "x"})
    assert answer["ETag"].strip('"') == hashlib.md5(b"content").hexdigest()
    assert s3.read_bytes(server, "a/b c.gz") == b"content"
    assert s3.read_bytes(server, "a/b c.gz", Range="bytes=2-4") == b"nte"
    assert s3.list_keys(server, "a/") == {"a/b c.gz": 7}


def test_head_tells_size_etag_and_metadata(server: S3Endpoint) -> None:
    s3.put_bytes(server, "key", b"content", Metadata={"sha-256": "x"})
    found = s3.head(server, "key")
    assert found is not None
    assert (found.size, found.etag) == (7, hashlib.md5(b"content").hexdigest())
    assert {name.lower(): value for name, value in found.metadata.items()} == {"sha-256": "x"}
    assert s3.head(server, "no such key") is None


def test_joins_parts(server: S3Endpoint) -> None:
    answer = s3.put_parts(server, "big", PARTS)
    md5s = b"".join(hashlib.md5(part).digest() for part in PARTS)
    assert answer["ETag"].strip('"') == f"{hashlib.md5(md5s).hexdigest()}-3"
    assert s3.read_bytes(server, "big") == b"".join(PARTS)
    assert s3.list_uploads(server) == []


def test_deletes(server: S3Endpoint) -> None:
    s3.put_bytes(server, "key", b"content")
    s3.delete_key(server, "key")
    s3.delete_key(server, "never was")
    assert s3.list_keys(server) == {}


def test_shows_unfinished_uploads(server: S3Endpoint) -> None:
    upload_id = s3.client(server).create_multipart_upload(Bucket=server.bucket, Key="left")["UploadId"]
    assert s3.list_uploads(server) == [s3.Upload("left", upload_id)]
    s3.empty_bucket(server)
    assert s3.list_uploads(server) == []


def test_a_missing_bucket_is_an_error(server: S3Endpoint) -> None:
    def put() -> object:
        return s3.client(server).put_object(Bucket="no-such-bucket", Key="key", Body=b"")

    assert s3.error_of(put) == (404, "NoSuchBucket")


@pytest.mark.parametrize("name", ["moto", "seaweedfs"])
def test_conditional_writes(name: str, request: pytest.FixtureRequest) -> None:
    server = s3.fresh_bucket(request.getfixturevalue(name))
    s3.put_bytes(server, "key", b"first", IfNoneMatch="*")
    refused = (412, "PreconditionFailed")
    assert s3.error_of(lambda: s3.put_bytes(server, "key", b"second", IfNoneMatch="*")) == refused
    assert s3.error_of(lambda: s3.put_parts(server, "key", PARTS, IfNoneMatch="*")) == refused
    assert s3.error_of(lambda: s3.put_bytes(server, "key", b"second", IfMatch='"0"')) == refused
    assert s3.read_bytes(server, "key") == b"first"


def test_rclone_takes_more_arguments() -> None:
    with s3.rclone_s3_server("--bwlimit", "20M") as server:
        s3.put_bytes(server, "key", b"data")


def test_nobody_listens_where_it_is_unreachable(moto: S3Endpoint) -> None:
    with s3.unreachable(moto) as nowhere, pytest.raises(EndpointConnectionError):
        s3.list_keys(nowhere)


def test_two_servers_at_once_do_not_meet() -> None:
    with ThreadPoolExecutor() as pool:
        servers = [s3.rclone_s3_server() for _ in range(4)]
        endpoints = list(pool.map(lambda server: server.__enter__(), servers))
        list(pool.map(lambda server: server.__exit__(None, None, None), servers))
    assert len({endpoint.endpoint_url for endpoint in endpoints}) == 4


def test_a_claimed_port_is_not_given_twice() -> None:
    with claimed_ports(20) as first, claimed_ports(20, with_grpc=True) as second:
        assert len({*first, *second}) == 40


def test_the_server_is_gone_afterwards() -> None:
    with s3.rclone_s3_server() as server:
        url = urlsplit(server.endpoint_url)
        place = (str(url.hostname), int(url.port or 0))
        socket.create_connection(place).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place)


def _python(code: str, **more: float) -> ServerSpec:
    def never(place: Workplace) -> None:
        raise ConnectionError(f"nothing answers in {place.folder}")

    return ServerSpec(lambda _: [sys.executable, "-c", code], never, **more)  # type: ignore[arg-type]


def test_a_server_that_dies_shows_its_log() -> None:
    spec = _python("print('no such option'); raise SystemExit(3)")
    with pytest.raises(ServerDiedError, match=r"exit code 3:\nno such option"), running_server(spec):
        pass


def test_a_server_that_stays_silent_is_given_up() -> None:
    spec = _python("input()", timeout=0.2)
    with pytest.raises(ServerSilentError, match="nothing answers"), running_server(spec):
        pass


def test_a_server_that_does_not_want_to_end_is_killed() -> None:
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); open('up', 'w').close(); time.sleep(600)"

    def probe(place: Workplace) -> None:
        (place.folder / "up").stat()

    with running_server(ServerSpec(lambda _: [sys.executable, "-c", code], probe, grace=0.1)) as place:
        folder = place.folder
    assert not folder.exists()


def test_programs_are_looked_for_beside_the_interpreter_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rclone").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    assert find_binary("rclone") == str(tmp_path / "rclone")
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        find_binary("no-such-program")
