"""What the S3 adapter does when the network or the service fails: try again, settle, or say what happened."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest

from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    FsbackupError,
    IntegrityError,
    LockedError,
    ObjectNotFoundError,
    OutOfSpaceError,
    TransientError,
)
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import MIB, PART, connect, cut, names, outcome, upload, write
from tests.matrix import matrix
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import (
    Corrupt,
    Drop,
    Fault,
    FaultProxy,
    Hold,
    LoseResponse,
    Refuse,
    Stall,
    Status,
    Throttle,
    Truncate,
    WrongEtag,
    fault_proxy,
)
from tests.servers.operations import Operation

DATA = bytes(range(256)) * 64
PARTS = [b"a" * PART, b"b" * PART, b"tail"]
BIG = b"".join(PARTS)
#: Silence that the tests of stalls wait for; everything else answers much sooner, or the test says why not.
SHORT = 1.0


@pytest.fixture
def hasty(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store that waits for a short time only; its connection is already there."""
    made = connect(proxy.endpoint, profile=R2, timeout=SHORT)
    assert run(made.stat("any")) is None
    proxy.forget()
    yield made
    run(made.close())


# --- one request where one is enough -----------------------------------------------------------------------


def test_each_operation_is_one_request(store: S3Store, proxy: FaultProxy) -> None:
    run(store.put("a", DATA))
    run(store.stat("a"))
    run(store.read("a"))
    run(store.read("a", 10, 20))
    names(store)
    run(store.put("b", DATA, create_only=True))
    run(store.remove("a"))
    operations = ["put_object", "head", "get", "get", "list", "put_object", "delete"]
    assert [one.operation for one in proxy.requests] == operations


def test_several_parts_take_one_request_each_and_four_more(store: S3Store, proxy: FaultProxy) -> None:
    upload(store, "big", BIG)
    seen = [one.operation for one in proxy.requests]
    assert seen[:2] == ["create_multipart", "put_object"]  # which records the upload before any byte is sent
    assert seen[2:] == [*["upload_part"] * 3, "complete", "delete"]


def test_an_object_of_one_part_is_never_a_multipart_upload(store: S3Store, proxy: FaultProxy) -> None:
    for name, data in {"empty": b"", "small": b"x", "whole": b"y" * PART}.items():
        upload(store, name, data)
        assert run(store.read(name)) == data
    assert proxy.count("put_object") == 3
    assert proxy.count("create_multipart") == 0


# --- tried again -------------------------------------------------------------------------------------------

TRANSIENT: list[Callable[[], Fault]] = [
    lambda: Status(500, "InternalError"),
    lambda: Status(502, "BadGateway"),
    lambda: Status(503, "ServiceUnavailable"),
    lambda: Status(503, "SlowDown", {"Retry-After": "0"}),
    lambda: Status(504, "GatewayTimeout"),
    lambda: Status(520, "CloudflareSaysSo"),
    lambda: Status(429, "TooManyRequests"),
    lambda: Status(400, "RequestTimeout"),
    lambda: Status(409, "OperationAborted"),
    Refuse,
    Drop,
    LoseResponse,
]
TRANSIENT_IDS = [
    "500", "502", "503", "slow-down", "504", "520", "429", "request-timeout", "aborted", "refuse", "drop", "lose",
]  # fmt: skip


@pytest.mark.each_choice
@pytest.mark.parametrize("fault", TRANSIENT, ids=TRANSIENT_IDS)
@pytest.mark.parametrize("operation", ["put_object", "get", "delete", "list"])
def test_what_may_pass_is_tried_again(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, operation: Operation, fault: Callable[[], Fault]
) -> None:
    s3.put_bytes(direct, "there", DATA)
    s3.put_bytes(direct, "gone", DATA)
    proxy.add(fault(), on=operation, times=2)
    run(store.put("new", DATA))
    found = run(store.stat("there"))
    assert found is not None
    assert found.size == len(DATA)
    assert run(store.read("there")) == DATA
    run(store.remove("gone"))
    assert names(store) == ["new", "there"]
    assert s3.read_bytes(direct, "new") == DATA
    assert proxy.count(operation) == 3


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520])
def test_head_is_tried_again_by_its_status(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, status: int
) -> None:
    s3.put_bytes(direct, "there", DATA)
    proxy.add(Status(status, "NobodySeesThis"), on="head", times=2)
    found = run(store.stat("there"))
    assert found is not None
    assert (found.size, proxy.count("head")) == (len(DATA), 3)


@pytest.mark.each_choice
@pytest.mark.parametrize("fault", TRANSIENT, ids=TRANSIENT_IDS)
@pytest.mark.parametrize("operation", ["create_multipart", "upload_part", "complete"])
def test_every_step_of_an_upload_is_tried_again(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, operation: Operation, fault: Callable[[], Fault]
) -> None:
    proxy.add(fault(), on=operation, times=1)
    moved: list[int] = []
    stat = upload(store, "big", BIG, on_progress=moved.append)
    assert s3.read_bytes(direct, "big") == BIG
    assert (stat.size, sum(moved)) == (len(BIG), len(BIG))


@pytest.mark.parametrize("cut_at", [0, 1, 100_000, 3 * MIB])
def test_a_body_cut_anywhere_is_sent_again_whole(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, cut_at: int
) -> None:
    proxy.add(Drop(request_bytes=cut_at), on="put_object", times=2)
    data = hashlib.shake_128(b"seed").digest(4 * MIB)
    moved: list[int] = []
    upload(store, "cut", data, on_progress=moved.append)
    assert s3.read_bytes(direct, "cut") == data
    assert (sum(moved), min(moved) >= 0) == (len(data), True)


@pytest.mark.parametrize("cut_at", [0, 1, 5000, len(DATA) - 1])
def test_an_answer_cut_anywhere_is_read_again(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, cut_at: int
) -> None:
    s3.put_bytes(direct, "cut", DATA)
    proxy.add(Drop(answer_bytes=cut_at), on="get", times=2)
    assert run(store.read("cut")) == DATA
    assert run(store.read("cut", 100, 200)) == DATA[100:200]


def test_a_listing_is_tried_again_page_by_page(direct: S3Endpoint, proxy: FaultProxy) -> None:
    expected = [f"{number:02}" for number in range(11)]
    for name in expected:
        s3.put_bytes(direct, name, b"x")
    proxy.add(Drop(answer_bytes=40), on="list", first=2, times=1)
    proxy.add(Status(503, "SlowDown"), on="list", first=4, times=1)
    store = connect(proxy.endpoint, page_size=4)
    assert names(store) == expected
    run(store.close())


def test_tries_end_with_the_error_and_its_cause(proxy: FaultProxy) -> None:
    """They go on with growing waits until the timeout has passed, and not longer."""
    store = connect(proxy.endpoint, timeout=4.0)
    proxy.add(Status(503, "SlowDown"), on="head")
    begun = time.monotonic()
    with pytest.raises(TransientError, match="503") as caught:
        run(store.stat("any"))
    assert 1.5 < time.monotonic() - begun < 4.5
    starts = [one.started for one in proxy.requests]
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) >= 4
    assert waits[-1] > waits[0]
    assert (caught.value.backend, caught.value.operation, caught.value.key) == (store.name, "stat", "any")
    assert caught.value.hint
    assert caught.value.cause is not None
    run(store.close())


def test_an_outage_of_some_seconds_is_outlasted(proxy: FaultProxy, direct: S3Endpoint) -> None:
    """More failures than a small number of tries would stand, and Retry-After does not make the waits shorter."""
    proxy.add(Status(503, "SlowDown", {"Retry-After": "0"}), on="put_object", times=5)
    proxy.add(Refuse(), on="put_object", first=6, times=2)
    store = connect(proxy.endpoint, profile=R2)
    run(store.put("late", DATA))
    run(store.close())
    assert s3.read_bytes(direct, "late") == DATA


@pytest.mark.parametrize("fault", [Status(503, "SlowDown"), Drop(request_bytes=3 * MIB)], ids=["busy", "cut"])
def test_bytes_sent_again_are_no_progress(
    monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy, fault: Fault
) -> None:
    """A service that takes a body and refuses it each time is given up all the same, also when no wait is long."""
    monkeypatch.setattr("fsbackup.stores.s3.http.requests._DOUBLINGS", 1)
    store = connect(proxy.endpoint, timeout=2.0)
    proxy.add(fault, on="put_object")
    begun = time.monotonic()
    with pytest.raises(TransientError):
        run(store.put("any", b"x" * 4 * MIB))
    assert time.monotonic() - begun < 8.0
    run(store.close())


def test_a_dead_service_is_unavailable(direct: S3Endpoint) -> None:
    with s3.unreachable(direct) as nowhere:
        store = connect(nowhere, timeout=SHORT)
        with pytest.raises(BackendUnavailableError, match="refused"):
            run(store.put("a", b"x"))
        run(store.close())


def test_a_service_that_comes_up_late_is_reached(direct: S3Endpoint) -> None:
    """Connections are refused until it listens."""
    with s3.unreachable(direct) as nowhere:
        store = connect(nowhere, timeout=20.0)
        port = urlsplit(nowhere.endpoint_url).port or 0

        async def scenario() -> ObjectStat:
            writing = asyncio.create_task(store.put("a", b"x"))
            await asyncio.wait([writing], timeout=0.5)
            assert not writing.done()
            with fault_proxy(direct, port):
                return await writing

        assert run(scenario()).size == 1
        run(store.close())
    assert s3.read_bytes(direct, "a") == b"x"


def test_a_name_that_cannot_be_resolved_is_unavailable(direct: S3Endpoint) -> None:
    store = connect(replace(direct, endpoint_url="http://no-such-host.invalid"), timeout=SHORT)
    with pytest.raises(BackendUnavailableError, match=r"no-such-host\.invalid"):
        run(store.stat("a"))
    run(store.close())


def test_a_wait_longer_than_the_timeout_is_not_waited(store: S3Store, proxy: FaultProxy) -> None:
    proxy.add(Status(503, "SlowDown", {"Retry-After": "3600"}), on="head")
    with pytest.raises(TransientError, match=r"HTTP 503( -|$)") as caught:
        run(store.stat("any"))
    assert not isinstance(caught.value, BackendUnavailableError)
    assert proxy.count("head") == 1


# --- not tried again, and what it means --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "AccessDenied", AccessDeniedError, "access key"),
        (403, "InvalidAccessKeyId", AccessDeniedError, "does not know"),
        (403, "SignatureDoesNotMatch", AccessDeniedError, "secret"),
        (403, "RequestTimeTooSkewed", AccessDeniedError, "clock"),
        (400, "ExpiredToken", AccessDeniedError, "expired"),
        (401, "Unauthorized", AccessDeniedError, "checksum"),
        (403, "ObjectLockedByBucketPolicy", LockedError, "lock"),
        (403, "QuotaExceeded", OutOfSpaceError, "space"),
        (507, "InsufficientStorage", OutOfSpaceError, "space"),
        (412, "PreconditionFailed", ConflictError, "name"),
        (409, "ConditionalRequestConflict", ConflictError, "name"),
        (404, "NoSuchBucket", BackendError, "bucket"),
        (400, "EntityTooLarge", BackendError, ""),
        (400, "InvalidArgument", BackendError, ""),
        (501, "NotImplemented", BackendError, "implement"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    store: S3Store, proxy: FaultProxy, status: int, code: str, kind: type[BackendError], hint: str
) -> None:
    proxy.add(Status(status, code), on="put_object")
    error = outcome(store.put("any", DATA))
    assert type(error) is kind
    assert isinstance(error, BackendError)
    assert code in str(error)
    assert hint in (error.hint or "")
    assert proxy.count("put_object") == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccessDeniedError), (403, AccessDeniedError), (405, BackendError), (501, BackendError)],
)
def test_head_has_only_a_status_to_go_by(
    store: S3Store, proxy: FaultProxy, status: int, kind: type[BackendError]
) -> None:
    proxy.add(Status(status, "NobodySeesThis"), on="head")
    assert type(outcome(store.stat("any"))) is kind
    assert proxy.count("head") == 1


# --- unknown is not absent ---------------------------------------------------------------------------------


def test_the_first_missing_key_has_the_bucket_proven_once(store: S3Store, proxy: FaultProxy) -> None:
    assert [run(store.stat(name)) for name in ("a", "b", "c")] == [None, None, None]
    assert [one.operation for one in proxy.requests] == ["head", "head_bucket", "head", "head"]


@pytest.mark.parametrize("first", ["put", "list", "read"])
def test_whatever_worked_proves_the_bucket(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, first: str
) -> None:
    s3.put_bytes(direct, "there", DATA)
    if first == "put":
        run(store.put("new", DATA))
    elif first == "list":
        names(store)
    else:
        run(store.read("there"))
    assert run(store.stat("missing")) is None
    assert proxy.count("head_bucket") == 0


def test_a_token_for_objects_only_proves_the_bucket_by_listing(store: S3Store, proxy: FaultProxy) -> None:
    proxy.add(Status(403, "AccessDenied"), on="head_bucket")
    assert run(store.stat("missing")) is None
    assert [one.operation for one in proxy.requests] == ["head", "head_bucket", "list"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Status(403, "AccessDenied"), AccessDeniedError),
        (Status(404, "NoSuchBucket"), BackendError),
        (Status(503, "SlowDown"), TransientError),
        (Refuse(), BackendUnavailableError),
    ],
    ids=["denied", "no-bucket", "busy", "refused"],
)
def test_a_bucket_that_cannot_be_proven_is_an_error(
    proxy: FaultProxy, fault: Fault, kind: type[BackendError]
) -> None:
    store = connect(proxy.endpoint, profile=R2, timeout=SHORT)
    for operation in ("head_bucket", "list"):
        proxy.add(fault, on=operation)
    for work in (store.stat("missing"), store.read("missing"), store.put("new", b"x", create_only=True)):
        error = outcome(work)
        if not isinstance(error, BaseException):
            continue  # an atomic create needs no question first
        assert isinstance(error, kind)
        assert not isinstance(error, ObjectNotFoundError)
    assert isinstance(outcome(store.stat("missing")), kind) or proxy.count("put_object")
    run(store.close())


# --- answers that are lost ---------------------------------------------------------------------------------


def test_a_put_whose_answers_are_all_lost_is_found_stored(
    hasty: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(LoseResponse(), on="put_object")
    stat = run(hasty.put("lost", DATA))
    assert (stat.size, stat.etag) == (len(DATA), hashlib.md5(DATA).hexdigest())
    assert s3.read_bytes(direct, "lost") == DATA


def test_an_old_object_of_the_same_content_is_not_taken_for_ours(hasty: S3Store, proxy: FaultProxy) -> None:
    run(hasty.put("same", DATA))
    proxy.add(Drop(), on="put_object")
    with pytest.raises(BackendUnavailableError):
        run(hasty.put("same", DATA))


def test_a_create_that_meets_its_own_success_is_a_success(strict_r2: s3.StrictEndpoint) -> None:
    strict_r2.control.reset()
    strict_r2.control.configure(write_interval=0)
    with fault_proxy(strict_r2) as proxy:
        store = connect(proxy.endpoint)
        lost = proxy.add(LoseResponse(), on="put_object", times=1)
        stat = run(store.put("once", DATA, create_only=True))
        run(store.close())
    assert (lost.hits, proxy.count("put_object"), stat.size) == (1, 2, len(DATA))
    assert s3.read_bytes(strict_r2, "once") == DATA


def test_a_create_of_what_another_wrote_is_a_conflict_even_if_it_is_the_same(
    store: S3Store, direct: S3Endpoint
) -> None:
    s3.put_bytes(direct, "twice", DATA)
    with pytest.raises(ConflictError):
        run(store.put("twice", DATA, create_only=True))


@pytest.mark.parametrize("create_only", [False, True])
@pytest.mark.parametrize("server", ["strict_r2", "strict_b2", *map(matrix, ["moto", "seaweedfs"])])
def test_a_completed_upload_whose_answer_is_lost_is_found_stored(
    server: str, create_only: bool, request: pytest.FixtureRequest
) -> None:
    endpoint = request.getfixturevalue(server)
    if isinstance(endpoint, s3.StrictEndpoint):
        endpoint.control.reset()
    else:
        endpoint = s3.fresh_bucket(endpoint)
    with fault_proxy(endpoint) as proxy:
        store = connect(proxy.endpoint)
        lost = proxy.add(LoseResponse(), on="complete", times=1)
        stat = upload(store, "lost", BIG, create_only=create_only)
        run(store.close())
    assert (lost.hits, stat.size) == (1, len(BIG))
    assert s3.read_bytes(endpoint, "lost") == BIG
    assert s3.list_uploads(endpoint) == []


def test_an_upload_that_is_gone_is_not_found_stored_in_somebody_elses_object(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    s3.put_parts(direct, "theirs", PARTS)
    proxy.add(Status(404, "NoSuchUpload"), on="complete")
    with pytest.raises(BackendError, match="NoSuchUpload") as caught:
        upload(store, "theirs", BIG)
    assert not isinstance(caught.value, ObjectNotFoundError)


def test_nobody_to_ask_leaves_the_first_error(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.add(Status(503, "SlowDown"), on="put_object")
    proxy.add(Status(403, "AccessDenied"), on="head")
    with pytest.raises(TransientError, match="SlowDown"):
        run(hasty.put("any", DATA))


# --- silence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Stall(), Stall(request_bytes=300_000), Stall(request_bytes=4 * MIB - 1)],
    ids=["at-once", "in-the-body", "before-the-last-byte"],
)
def test_an_upload_that_stalls_is_cut(hasty: S3Store, proxy: FaultProxy, fault: Fault) -> None:
    proxy.add(fault, on="put_object")
    with pytest.raises(BackendUnavailableError, match=r"no byte moved for 1 s") as caught:
        run(hasty.put("stalled", b"x" * 4 * MIB))
    assert caught.value.hint


def test_an_upload_without_an_answer_is_found_stored(proxy: FaultProxy, direct: S3Endpoint) -> None:
    store = connect(proxy.endpoint, timeout=3.0)
    proxy.add(Stall(answer_bytes=0), on="put_object")
    run(store.put("stored", DATA))
    run(store.close())
    assert s3.read_bytes(direct, "stored") == DATA
    assert proxy.count("put_object") == 1


def test_a_part_that_stalls_is_cut_and_its_upload_aborted(
    hasty: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(Stall(request_bytes=2 * MIB), on="upload_part")  # the last part is smaller and gets there
    with pytest.raises(BackendUnavailableError):
        upload(hasty, "stalled", BIG)
    assert s3.list_uploads(direct) == []


@pytest.mark.parametrize("stall_at", [0, 1000])
def test_a_download_that_stalls_is_cut(
    hasty: S3Store, direct: S3Endpoint, proxy: FaultProxy, stall_at: int
) -> None:
    s3.put_bytes(direct, "stalled", DATA)
    proxy.add(Stall(answer_bytes=stall_at), on="get")
    with pytest.raises(BackendUnavailableError):
        run(hasty.read("stalled"))


@pytest.mark.parametrize("operation", ["head", "list", "delete"])
def test_a_question_without_an_answer_is_cut(hasty: S3Store, proxy: FaultProxy, operation: Operation) -> None:
    proxy.add(Stall(), on=operation)
    work: dict[str, Callable[[], Any]] = {
        "head": lambda: run(hasty.stat("any")),
        "list": lambda: names(hasty),
        "delete": lambda: run(hasty.remove("any")),
    }
    with pytest.raises(BackendUnavailableError):
        work[operation]()


def test_tries_share_one_silence(hasty: S3Store, proxy: FaultProxy) -> None:
    """A failure and a stall after it are one silence, and the error tells of both."""
    proxy.add(Status(503, "SlowDown"), on="head", times=1)
    proxy.add(Stall(), on="head", first=2)
    with pytest.raises(BackendUnavailableError, match="503"):
        run(hasty.stat("any"))


def test_a_slow_upload_is_never_cut(proxy: FaultProxy, direct: S3Endpoint) -> None:
    """Far longer than the timeout in all, and far more than the kernel could swallow, but never silent."""
    proxy.add(Throttle(up=1_000_000), on="put_object")
    store = connect(proxy.endpoint, timeout=2.0)
    data = hashlib.shake_128(b"slow").digest(5 * MIB)
    run(store.put("slow", data))
    run(store.close())
    assert s3.read_bytes(direct, "slow") == data
    assert proxy.count("put_object") == 1


def test_a_slow_download_is_never_cut(proxy: FaultProxy, direct: S3Endpoint) -> None:
    s3.put_bytes(direct, "slow", DATA * 25)
    proxy.add(Throttle(down=100_000), on="get")
    store = connect(proxy.endpoint, timeout=2.0)
    assert run(store.read("slow")) == DATA * 25
    run(store.close())
    assert proxy.count("get") == 1


# --- bytes that are not the ones that were sent --------------------------------------------------------------

_OTHER_MD5 = f'"{"0" * 32}"'


def test_a_new_object_with_another_etag_is_an_error_and_goes_away(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(WrongEtag(_OTHER_MD5), on="put_object")
    with pytest.raises(IntegrityError):
        run(store.put("damaged", DATA, create_only=True))
    assert s3.list_keys(direct) == {}


@pytest.mark.parametrize(("create_only", "error"), [(True, ConflictError), (False, IntegrityError)])
def test_an_object_that_another_writer_stored_meanwhile_is_not_taken_back(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, create_only: bool, error: type[FsbackupError]
) -> None:
    """A service that lets two create one name may answer the one with the other's ETag."""
    proxy.add(WrongEtag(_OTHER_MD5), on="put_object", times=1)
    hold = proxy.add(Hold("after"), on="put_object", times=1)

    async def scenario() -> None:
        task = asyncio.create_task(write(store, "raced", cut(DATA), create_only=create_only, is_new=True))
        await asyncio.to_thread(hold.wait_reached)
        await store.put("raced", b"another's")
        hold.release()
        await task

    assert isinstance(outcome(scenario()), error)
    assert s3.read_bytes(direct, "raced") == b"another's"


def test_a_damaged_replacement_is_an_error_and_stays(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    """The old object is gone already; to remove the new one would leave nothing to mend."""
    run(store.put("damaged", b"old"))
    proxy.add(WrongEtag(_OTHER_MD5), on="put_object")
    with pytest.raises(IntegrityError):
        run(store.put("damaged", DATA))
    assert set(s3.list_keys(direct)) == {"damaged"}


def test_a_damaged_version_goes_away_and_the_old_one_shows_again(strict_b2: s3.StrictEndpoint) -> None:
    strict_b2.control.reset()
    s3.put_bytes(strict_b2, "damaged", b"old")
    with fault_proxy(strict_b2) as proxy:
        store = connect(proxy.endpoint)
        proxy.add(WrongEtag(_OTHER_MD5), on="put_object")
        with pytest.raises(IntegrityError):
            run(store.put("damaged", DATA))
        run(store.close())
    assert s3.read_bytes(strict_b2, "damaged") == b"old"


def test_a_part_with_another_etag_is_an_error_and_nothing_stays(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(WrongEtag(_OTHER_MD5), on="upload_part", first=2, times=1)
    with pytest.raises(IntegrityError):
        upload(store, "damaged", BIG)
    assert (s3.list_keys(direct), s3.list_uploads(direct)) == ({}, [])


@pytest.mark.parametrize("operation", ["complete", "head"])
def test_a_whole_with_another_etag_is_an_error(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy, operation: Operation
) -> None:
    """It is looked at once more only where the answer has no ETag that is made of the content."""
    if operation == "head":
        proxy.add(WrongEtag('"opaque"'), on="complete")
    proxy.add(WrongEtag(f'"{"0" * 32}-3"'), on=operation)
    with pytest.raises(IntegrityError):
        upload(store, "damaged", BIG, create_only=True)
    assert s3.list_keys(direct) == {}


def test_an_etag_of_another_kind_is_not_compared(store: S3Store, proxy: FaultProxy) -> None:
    for operation in ("put_object", "complete", "head"):
        proxy.add(WrongEtag('"opaque"'), on=operation)
    assert run(store.put("one", DATA)).etag == "opaque"
    assert proxy.count("head") == 1  # which confirms the size instead
    assert upload(store, "many", BIG).size == len(BIG)


def test_bytes_damaged_on_the_way_are_sent_again(store: S3Store, proxy: FaultProxy) -> None:
    proxy.add(Status(400, "BadDigest"), on="put_object", times=2)
    run(store.put("damaged", DATA))
    assert proxy.count("put_object") == 3


def test_bytes_damaged_every_time_are_an_integrity_error(hasty: S3Store, proxy: FaultProxy) -> None:
    proxy.add(Status(400, "BadDigest"), on="put_object")
    with pytest.raises(IntegrityError) as caught:
        run(hasty.put("damaged", DATA))
    assert (caught.value.backend, caught.value.key) == (hasty.name, "damaged")


def test_a_short_answer_is_never_handed_out(hasty: S3Store, direct: S3Endpoint, proxy: FaultProxy) -> None:
    s3.put_bytes(direct, "short", DATA)
    proxy.add(Truncate(10), on="get")
    with pytest.raises(TransientError):
        run(hasty.read("short", 0, 1000))
    assert proxy.count("get") > 1


def test_a_damaged_answer_is_for_the_manifest_to_find(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    s3.put_bytes(direct, "damaged", DATA)
    proxy.add(Corrupt(at=7), on="get")
    assert len(run(store.read("damaged"))) == len(DATA)


# --- conditions ---------------------------------------------------------------------------------------------


def test_a_service_without_conditions_is_asked_first_from_then_on(
    store: S3Store, direct: S3Endpoint, proxy: FaultProxy
) -> None:
    proxy.add(Status(501, "NotImplemented"), on="put_object", times=1)
    assert store.capabilities.conditional_create
    run(store.put("first", DATA, create_only=True))
    run(store.put("second", DATA, create_only=True))
    assert not store.capabilities.conditional_create
    expected = ["put_object", "head", "head_bucket", "put_object", "head", "put_object"]
    assert [one.operation for one in proxy.requests] == expected
    with pytest.raises(ConflictError):
        run(store.put("first", b"other", create_only=True))
    assert s3.read_bytes(direct, "first") == DATA


def test_an_upload_that_loses_the_race_is_a_conflict_and_leaves_nothing(
    store: S3Store, direct: S3Endpoint
) -> None:
    async def scenario() -> BaseException:
        results = [write(store, "raced", cut(BIG), create_only=True) for _ in range(2)]
        first = await results[0]
        assert first.size == len(BIG)
        try:
            await results[1]
        except ConflictError as error:
            return error
        raise AssertionError("two writers created one name")

    assert isinstance(run(scenario()), ConflictError)
    assert s3.list_uploads(direct) == []
