"""Multipart uploads that a kill left: ours are found by their notes and thrown away, nobody else's ever is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fsbackup.errors import BackendError
from fsbackup.loop import run
from fsbackup.record import upload_note
from fsbackup.stores.base import Orphan, WritePlan
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import PART, connect, cut, outcome, upload
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint, client
from tests.servers.faults import FaultProxy, Hold, LoseResponse, Status, fault_proxy

RECORDS = ".fsbackup/records/"
BIG = b"".join([b"a" * PART, b"b" * PART, b"tail"])
#: Seconds, for the difference of the clocks and what a server rounds.
NOW, LATER = -60.0, 3600.0

_WRITER = """
    import asyncio, sys
    from fsbackup.stores.s3.store import S3Store
    from fsbackup.loop import run
    from fsbackup.stores.base import Part, WritePlan
    url, bucket, key_id, secret, region = sys.argv[1:]
    store = S3Store("x", bucket=bucket, endpoint_url=url, region=region, access_key_id=key_id,
                      secret_access_key=secret)
    async def main():
        writer = store.writer("dir/big", WritePlan(None), lambda _: None)
        size = 5 << 20
        for number in (1, 2):
            await writer.write(Part(number, (number - 1) * size, b"x" * size, last=False))
    run(main())
"""


def _list_orphans(store: S3Store, older_than: float) -> list[Orphan]:
    async def collect() -> list[Orphan]:
        return [found async for found in store.orphans(older_than)]

    return run(collect())


def _delete_orphans(store: S3Store) -> None:
    for orphan in _list_orphans(store, NOW):
        run(store.delete_orphan(orphan))


@contextmanager
def _killed_at(proxy: FaultProxy, hold: Hold) -> Iterator[None]:
    """Kill a writer where it is held."""
    endpoint = proxy.endpoint
    keys = (endpoint.access_key_id, endpoint.secret_access_key)
    arguments = (endpoint.endpoint_url, endpoint.bucket, *keys, endpoint.region)
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(_WRITER), *arguments]) as child:
        hold.wait_reached()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    proxy.clear()
    yield


@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
def test_an_upload_that_was_killed_is_found_and_thrown_away(server: str, request: pytest.FixtureRequest) -> None:
    endpoint = s3.fresh_bucket(request.getfixturevalue(server))
    s3.put_bytes(endpoint, "dir/big", b"old")
    theirs = client(endpoint).create_multipart_upload(Bucket=endpoint.bucket, Key="dir/big")["UploadId"]
    with fault_proxy(endpoint) as proxy:
        hold = proxy.add(Hold("before"), on="upload_part", first=2)
        with _killed_at(proxy, hold):
            store = connect(endpoint)
    assert len(s3.list_uploads(endpoint)) == 2
    assert _list_orphans(store, LATER) == []
    (found,) = _list_orphans(store, NOW)
    assert (found.size, "dir/big" in found.description) == (PART, True)
    run(store.delete_orphan(found))
    assert [one.upload_id for one in s3.list_uploads(endpoint)] == [theirs]
    assert set(s3.list_keys(endpoint)) == {"dir/big"}
    assert s3.read_bytes(endpoint, "dir/big") == b"old"
    assert _list_orphans(store, NOW) == []
    run(store.delete_orphan(found))
    run(store.close())


def test_no_byte_is_sent_before_the_upload_is_recorded(direct: S3Endpoint, proxy: FaultProxy) -> None:
    """Else a kill could leave bytes that nobody knows to be ours."""
    hold = proxy.add(Hold("before"), on="put_object")
    with _killed_at(proxy, hold):
        pass
    assert [one.operation for one in proxy.requests] == ["create_multipart", "put_object"]
    (left,) = s3.list_uploads(direct)
    parts = client(direct).list_parts(Bucket=direct.bucket, Key=left.key, UploadId=left.upload_id)
    assert "Parts" not in parts


def test_an_upload_without_a_part_counts_from_its_beginning(store: S3Store, proxy: FaultProxy) -> None:
    for operation in ("upload_part", "abort"):
        proxy.add(Status(403, "AccessDenied"), on=operation)
    with pytest.raises(PermissionError):
        upload(store, "begun", BIG)
    assert _list_orphans(store, LATER) == []
    assert [found.size for found in _list_orphans(store, NOW)] == [0]


def test_an_upload_that_moves_is_not_left_over(direct: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago it was begun: its latest part counts."""
    store = connect(direct)

    async def scenario() -> tuple[int, int]:
        writer = store.writer("long", WritePlan(None), lambda _: None)
        first, second, last = cut(BIG)
        await writer.write(first)
        (record,) = [item async for item in store.list(RECORDS)]
        await asyncio.sleep(1.5 - (record.modified or 0) % 1)  # a part of the next second
        await writer.write(second)
        clock = (record.modified or 0) + 1000.5
        monkeypatch.setattr("time.time", lambda: clock)
        found = [len([one async for one in store.orphans(age)]) for age in (1000, 900)]
        monkeypatch.undo()
        await writer.write(last)
        await writer.commit()
        return found[0], found[1]

    assert run(scenario()) == (0, 1)
    run(store.close())
    assert s3.read_bytes(direct, "long") == BIG


def test_the_note_of_an_upload_that_ended_may_stay(store: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    """The object was stored, and only the note could not be removed: that is no failure of the upload."""
    proxy.add(Status(403, "AccessDenied"), on="delete")
    assert upload(store, "stored", BIG).size == len(BIG)
    proxy.clear()
    (note,) = s3.list_keys(direct, RECORDS)
    assert _list_orphans(store, NOW) == []
    run(store.delete_orphan(Orphan(note, 0.0, 0, "")))  # it has no upload: repair decides whether it is needed
    assert set(s3.list_keys(direct)) == {"stored", note}
    assert s3.read_bytes(direct, "stored") == BIG


def test_an_upload_that_cannot_be_recorded_is_not_begun(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(Status(403, "AccessDenied"), on="put_object")
    with pytest.raises(PermissionError):
        upload(store, "refused", BIG)
    assert (s3.list_keys(direct), s3.list_uploads(direct)) == ({}, [])
    assert proxy.count("upload_part") == 0


def test_a_record_whose_answer_was_lost_goes_with_its_upload(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(LoseResponse(), on="put_object", times=1)
    upload(store, "stored", BIG)
    assert set(s3.list_keys(direct)) == {"stored"}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"no record", b'{"upload_id": 1}', upload_note("another", "host", "2025-10-05T12:00:00Z")]
)
def test_an_upload_without_a_note_of_ours_is_left_alone(direct: S3Endpoint, data: bytes) -> None:
    """Also where there is something in the place of the note, and below it that of another object."""
    store, name = connect(direct, profile=R2), f"{RECORDS}dir/big/{'0' * 32}"
    client(direct).create_multipart_upload(Bucket=direct.bucket, Key="dir/big")
    for each in (name, f"{RECORDS}dir/big/other/{'0' * 32}"):
        s3.put_bytes(direct, each, data)
    assert _list_orphans(store, NOW) == []
    run(store.delete_orphan(Orphan(name, 0.0, 0, "")))
    assert s3.read_bytes(direct, name) == data
    assert len(s3.list_uploads(direct)) == 1
    run(store.close())


def test_an_upload_that_cannot_be_aborted_keeps_its_record(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    async def scenario() -> None:
        writer = store.writer("stays", WritePlan(None), lambda _: None)
        await writer.write(cut(BIG)[0])
        proxy.add(Status(403, "AccessDenied"), on="abort")
        await writer.abort()

    run(scenario())
    (found,) = _list_orphans(store, NOW)
    assert isinstance(outcome(store.delete_orphan(found)), BackendError)
    assert len(s3.list_uploads(direct)) == len(_list_orphans(store, NOW)) == 1
    proxy.clear()
    _delete_orphans(store)
    assert (s3.list_keys(direct), s3.list_uploads(direct)) == ({}, [])


def test_versions_of_a_record_go_with_it(strict_b2: s3.StrictEndpoint) -> None:
    strict_b2.control.reset()
    store = connect(strict_b2)
    upload(store, "big", BIG)
    run(store.close())
    assert [one.key for one in s3.list_versions(strict_b2)] == ["big"]
