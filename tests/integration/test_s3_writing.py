"""How the S3 adapter writes: what goes over the wire, what memory it takes, and what stays when it is stopped."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import logging
import tracemalloc
import weakref

import pytest

from fsbackup.errors import BackendError, ConflictError
from fsbackup.loop import run
from fsbackup.stores.base import Part, WritePlan
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import MIB, PART, connect, cut, outcome, upload, write
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Drop, Fault, FaultProxy, Hold, Record, Stall, Status, Throttle, WrongEtag
from tests.servers.operations import Operation

PARTS = [b"a" * PART, b"b" * PART, b"tail"]
BIG = b"".join(PARTS)


def _headers(record: Record) -> dict[str, str]:
    return {name.lower(): value for name, value in record.headers}


# --- the wire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4 * MIB])
def test_what_a_put_carries(store: S3Store, proxy: FaultProxy, size: int) -> None:
    data = b"x" * size
    upload(store, "one", data, metadata={"made-by": "test"}, create_only=True)
    headers = _headers(proxy.requests[0])
    assert headers["content-md5"] == base64.b64encode(hashlib.md5(data).digest()).decode()
    assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert headers["content-length"] == str(size)
    assert headers["content-type"] == "application/octet-stream"
    assert headers["if-none-match"] == "*"
    assert headers["x-amz-meta-made-by"] == "test"


def test_what_a_part_carries(store: S3Store, proxy: FaultProxy) -> None:
    upload(store, "many", BIG, metadata={"made-by": "test"}, create_only=True)
    seen = {one.operation: _headers(one) for one in proxy.requests}
    parts = {_headers(one)["content-md5"] for one in proxy.requests if one.operation == "upload_part"}
    assert parts == {base64.b64encode(hashlib.md5(part).digest()).decode() for part in PARTS}
    assert seen["upload_part"]["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert seen["create_multipart"]["x-amz-meta-made-by"] == "test"
    assert seen["complete"]["if-none-match"] == "*"


def test_what_no_request_carries(store: S3Store, proxy: FaultProxy) -> None:
    upload(store, "many", BIG)
    upload(store, "one", PARTS[0])
    run(store.read("one", 5, 10))
    run(store.stat("one"))
    run(store.remove("one"))
    for one in proxy.requests:
        headers = _headers(one)
        assert headers["user-agent"].startswith("fsbackup/")
        assert not {"expect", "content-encoding", "transfer-encoding", "x-amz-acl", "x-amz-trailer"} & set(headers)
        assert not [name for name in headers if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum"))]


@pytest.mark.parametrize("server", ["seaweedfs", "strict_r2", "strict_b2", *map(matrix, ["moto", "rclone"])])
def test_every_server_takes_it(server: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(server)
    if isinstance(endpoint, s3.StrictEndpoint):
        endpoint.control.reset()
    else:
        endpoint = s3.fresh_bucket(endpoint)
    store = connect(endpoint)
    contents = {"empty": b"", "one/part": b"x" * PART, "many/parts": BIG}
    for name, data in contents.items():
        stat = upload(store, name, data, metadata={"made-by": "test"}, create_only=True)
        assert s3.read_bytes(endpoint, name) == data
        found = s3.head(endpoint, name)
        assert found is not None
        assert stat.size == found.size == len(data)
        if server != "rclone":  # its HEAD of what came in parts has the MD5 of the whole
            assert stat.etag == found.etag
        assert {name.lower(): value for name, value in found.metadata.items()}["made-by"] == "test"
    for name in contents:
        with pytest.raises(ConflictError):
            upload(store, name, BIG, create_only=True)
        assert s3.read_bytes(endpoint, name) == contents[name]
    run(store.close())
    assert s3.list_uploads(endpoint) == []


# --- progress and memory --------------------------------------------------------------------------------------


def test_progress_is_seen_within_a_part(store: S3Store) -> None:
    moved: list[int] = []
    upload(store, "one", b"x" * 4 * MIB, on_progress=moved.append)
    assert sum(moved) == 4 * MIB
    assert max(moved) <= MIB // 2


def test_a_body_is_never_copied_whole(store: S3Store, proxy: FaultProxy) -> None:
    """A receiver that is slower than we are makes the transport keep what it cannot send."""
    proxy.add(Throttle(up=20_000_000), on="put_object")
    data = b"x" * 16 * MIB
    (part,) = cut(data, len(data))
    assert part.md5
    run(store.stat("warm"))
    tracemalloc.start()
    try:
        run(write(store, "one", [part]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.each_choice
@pytest.mark.parametrize("last", [True, False], ids=["put", "part"])
@pytest.mark.parametrize(
    "fault",
    [Status(403, "AccessDenied"), Status(503, "SlowDown", {"Retry-After": "0"}), Drop(request_bytes=1), Stall()],
    ids=["refused", "busy", "dropped", "stalled"],
)
def test_a_failed_part_is_let_go_at_once(proxy: FaultProxy, fault: Fault, last: bool) -> None:
    """Not when the garbage collector comes round, and not as long as somebody keeps the error."""

    failing = connect(proxy.endpoint, profile=R2, timeout=1.0)

    async def scenario() -> tuple[BaseException | None, Part | None]:
        part = Part(1, 0, bytes(PART), last=last)
        watched = weakref.ref(part)
        writer = failing.writer("failed", WritePlan(None), lambda _: None)
        error: BaseException | None = None
        try:
            await writer.write(part)
            await writer.commit()
        except BackendError as caught:
            error = caught.with_traceback(None)
        await writer.abort()
        del writer, part
        for _ in range(3):
            await asyncio.sleep(0)
        return error, watched()

    run(failing.stat("warm"))
    proxy.add(fault, on="put_object" if last else "upload_part")
    gc.collect()
    gc.disable()
    try:
        error, kept = run(scenario())
    finally:
        gc.enable()
    run(failing.close())
    assert error is not None
    assert kept is None


# --- stopped half-way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create_multipart", "upload_part", "complete"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cancelled_upload_is_aborted(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, operation: Operation, when: str
) -> None:
    """Wherever it was: also while the upload was being started, and its id was not yet known."""
    hold = proxy.add(Hold(when), on=operation)  # type: ignore[arg-type]  # the parameter is one of the two

    async def scenario() -> None:
        task = asyncio.create_task(write(store, "stopped", cut(BIG)))
        await asyncio.to_thread(hold.wait_reached)
        task.cancel()
        proxy.clear()
        await task

    assert isinstance(outcome(scenario()), asyncio.CancelledError)
    assert s3.list_uploads(direct) == []
    assert set(s3.list_keys(direct)) <= ({"stopped"} if operation == "complete" else set())


def test_the_abort_is_repeated_when_a_part_was_in_flight(store: S3Store, proxy: FaultProxy) -> None:
    hold = proxy.add(Hold(), on="upload_part")

    async def scenario() -> None:
        task = asyncio.create_task(write(store, "stopped", cut(BIG)))
        await asyncio.to_thread(hold.wait_reached)
        task.cancel()
        await task

    assert isinstance(outcome(scenario()), asyncio.CancelledError)
    proxy.clear()
    assert proxy.count("abort") == 2


def test_an_abort_goes_on_when_it_is_cancelled(store: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    busy = proxy.add(Status(503, "SlowDown"), on="abort", times=1)

    async def scenario() -> None:
        writer = store.writer("stopped", WritePlan(None), lambda _: None)
        await writer.write(cut(BIG)[0])
        aborting = asyncio.create_task(writer.abort())
        await asyncio.to_thread(busy.wait_reached)
        aborting.cancel()
        await aborting

    assert isinstance(outcome(scenario()), asyncio.CancelledError)
    assert s3.list_uploads(direct) == []


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchUpload"])
def test_an_abort_that_fails_is_logged_and_no_error(
    store: S3Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    proxy.add(Status(404 if code == "NoSuchUpload" else 403, code), on="abort")

    async def scenario() -> None:
        writer = store.writer("stopped", WritePlan(None), lambda _: None)
        await writer.write(cut(BIG)[0])
        await writer.abort()
        await writer.abort()

    with caplog.at_level(logging.WARNING, "fsbackup"):
        run(scenario())
    assert [("stopped" in text, store.name in text) for text in caplog.messages] == (
        [(True, True)] if code == "AccessDenied" else []
    )
    assert proxy.count("abort") == 1


def test_a_part_after_the_end_is_refused(store: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    async def scenario() -> None:
        writer = store.writer("stopped", WritePlan(None), lambda _: None)
        first, second, *_ = cut(BIG)
        await writer.write(first)
        await writer.abort()
        await writer.write(second)

    assert isinstance(outcome(scenario()), BackendError)
    assert proxy.count("upload_part") == 1
    assert s3.list_uploads(direct) == []


@pytest.mark.parametrize("kept", [[], [1], [2], [0, 2], [0, 1]])
def test_a_commit_without_all_parts_stores_nothing(store: S3Store, direct: S3Endpoint, kept: list[int]) -> None:
    async def scenario() -> None:
        parts = cut(BIG)
        await write(store, "holes", [parts[index] for index in kept])

    assert isinstance(outcome(scenario()), BackendError)
    assert (s3.list_keys(direct), s3.list_uploads(direct)) == ({}, [])


def test_parts_may_come_in_any_order(store: S3Store, direct: S3Endpoint) -> None:
    async def scenario() -> None:
        writer = store.writer("mixed", WritePlan(None), lambda _: None)
        for part in reversed(cut(BIG)):
            await writer.write(part)
        await writer.commit()

    run(scenario())
    assert s3.read_bytes(direct, "mixed") == BIG


def test_a_reader_sees_the_old_object_until_the_last_call(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    s3.put_bytes(direct, "replaced", b"old")
    hold = proxy.add(Hold("before"), on="complete")

    async def scenario() -> bytes:
        task = asyncio.create_task(write(store, "replaced", cut(BIG)))
        await asyncio.to_thread(hold.wait_reached)
        seen = await store.read("replaced")
        hold.release()
        await task
        return seen

    assert run(scenario()) == b"old"
    assert s3.read_bytes(direct, "replaced") == BIG


def test_a_writer_that_is_overtaken_has_still_stored_its_object(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    """Another writer replaces the object between our last call and the question whether it is there.

    That is asked where the answer has no ETag made of the content.
    """
    proxy.add(WrongEtag('"opaque"'), on="complete")
    hold = proxy.add(Hold("before"), on="head", times=1)

    async def scenario() -> int:
        task = asyncio.create_task(write(store, "overtaken", cut(BIG)))
        await asyncio.to_thread(hold.wait_reached)
        await store.put("overtaken", b"newer")
        hold.release()
        return (await task).size

    assert run(scenario()) == len(BIG)
    assert s3.read_bytes(direct, "overtaken") == b"newer"
