"""Removing many objects: few requests, each object confirmed, and none but those that were looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fsbackup.aio import map_some
from fsbackup.errors import (
    AccessDeniedError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    LockedError,
    TransientError,
)
from fsbackup.loop import run
from fsbackup.stores.base import ObjectStat
from fsbackup.stores.s3.providers import R2
from fsbackup.stores.s3.store import S3Store
from tests.integration.s3_helpers import connect
from tests.integration.test_s3_misbehaving import Answer, page, scripted
from tests.servers import s3
from tests.servers.faults import FaultProxy, LoseResponse, Status, fault_proxy
from tests.servers.operations import S3Request


def numbered(count: int) -> list[str]:
    """Return some names that follow each other."""
    return [f"dir/{number:04}" for number in range(count)]


def put_all(store: S3Store, names: Sequence[str]) -> list[ObjectStat]:
    """Store an object under each name, and return what HEAD says of it."""

    async def put(name: str) -> ObjectStat:
        await store.put(name, b"x")
        found = await store.stat(name)
        assert found is not None
        return found

    async def all_of_them() -> list[ObjectStat]:
        return await map_some(put, names, 8)

    return run(all_of_them())


def remove(store: S3Store, removals: Sequence[ObjectStat | str]) -> list[Any]:
    """Remove, and return the outcomes."""
    return list(run(store.remove_many(removals)))


@pytest.fixture(params=["strict_r2", "strict_b2"])
def server(request: pytest.FixtureRequest) -> s3.StrictEndpoint:
    """A strict server, empty, that takes writes in a row."""
    endpoint: s3.StrictEndpoint = request.getfixturevalue(request.param)
    endpoint.control.reset()
    endpoint.control.configure(unavailable_every=0, write_interval=0)
    return endpoint


@pytest.fixture
def proxy(server: s3.StrictEndpoint) -> Iterator[FaultProxy]:
    """A proxy before it."""
    with fault_proxy(server) as running:
        yield running


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[S3Store]:
    """A store behind the proxy."""
    made = connect(proxy.endpoint)
    yield made
    run(made.close())


def operations(proxy: FaultProxy) -> list[str]:
    """Return what was asked for so far, and forget it."""
    seen: list[str] = [one.operation for one in proxy.requests]
    proxy.forget()
    return seen


def test_objects_cost_a_listing_and_a_removal_for_a_thousand(
    store: S3Store, proxy: FaultProxy, server: s3.StrictEndpoint
) -> None:
    stats = put_all(store, numbered(12))
    put_all(store, ["dir/0005.kept", "other"])
    operations(proxy)
    assert remove(store, stats) == [None] * 12
    listing = "list_versions" if server.name == "strict-b2" else "list"
    assert operations(proxy) == [listing, "delete_objects"]
    assert set(s3.list_keys(server)) == {"dir/0005.kept", "other"}


def test_names_cost_one_request_for_a_thousand(strict_r2: s3.StrictEndpoint) -> None:
    with fault_proxy(strict_r2) as proxy:
        store = connect(proxy.endpoint)
        assert remove(store, numbered(2500)) == [None] * 2500
        assert operations(proxy) == ["delete_objects"] * 3
        run(store.close())


def test_few_objects_are_looked_at_one_by_one(strict_r2: s3.StrictEndpoint) -> None:
    """On R2 a listing costs what twelve HEADs cost."""
    strict_r2.control.reset()
    with fault_proxy(strict_r2) as proxy:
        store = connect(proxy.endpoint)
        stats = put_all(store, ["a", "b"])
        operations(proxy)
        assert remove(store, stats) == [None, None]
        assert operations(proxy) == ["head", "head", "delete_objects"]
        run(store.close())


def test_names_far_apart_are_not_looked_for_in_a_long_listing() -> None:
    """A listing may pass ten other objects for each name; what lies beyond is looked at one by one."""
    there = [f"{number:04}" for number in range(1000)]
    seen: list[str] = []

    def script(request: S3Request) -> Answer:
        seen.append(request.operation)
        if request.operation == "list":
            after = request.query.get("continuation-token") or request.query.get("start-after", "")
            following = [name for name in there if name > after]
            return page(following[:50], more=True, token=following[49], prefix=request.query["prefix"])
        if request.operation == "head":
            return Answer(b"x")
        return _result(*(("Deleted", name, "") for name in there))

    with scripted(script, profile=R2) as store:
        removals = [ObjectStat(name, 1) for name in (*there[:11], there[-1])]
        assert remove(store, removals) == [None] * 12
    assert seen == ["list"] * 3 + ["head", "delete_objects"]


def test_what_was_replaced_since_the_look_stays(store: S3Store, server: s3.StrictEndpoint) -> None:
    stats = put_all(store, numbered(12))
    run(store.put(stats[3].name, b"a newer one"))
    outcomes = remove(store, stats)
    assert type(outcomes[3]) is ConflictError
    assert outcomes[:3] + outcomes[4:] == [None] * 11
    assert s3.read_bytes(server, stats[3].name) == b"a newer one"
    assert set(s3.list_keys(server)) == {stats[3].name}


def test_a_removal_whose_answer_is_lost_is_done_again(store: S3Store, proxy: FaultProxy) -> None:
    stats = put_all(store, numbered(12))
    proxy.add(LoseResponse(), on="delete_objects", times=1)
    assert remove(store, stats) == [None] * 12
    assert proxy.count("delete_objects") == 2


def test_a_service_without_it_is_asked_once(store: S3Store, proxy: FaultProxy, server: s3.StrictEndpoint) -> None:
    proxy.add(Status(501, "NotImplemented"), on="delete_objects")
    assert remove(store, put_all(store, numbered(12))) == [None] * 12
    assert remove(store, put_all(store, ["a", "b"])) == [None] * 2
    assert (proxy.count("delete_objects"), proxy.count("delete")) == (1, 14)
    assert not s3.list_keys(server)


def test_a_service_that_is_away_fails_every_removal(strict_r2: s3.StrictEndpoint) -> None:
    with fault_proxy(strict_r2) as proxy:
        store = connect(proxy.endpoint, timeout=1.0)
        proxy.add(Status(503, "ServiceUnavailable"), on="delete_objects")
        outcomes = remove(store, ["a", "b"])
        assert [(type(each), each.key) for each in outcomes] == [(TransientError, "a"), (TransientError, "b")]
        run(store.close())


def test_wrong_keys_are_an_error_of_every_removal(strict_r2: s3.StrictEndpoint) -> None:
    store = connect(strict_r2, secret_access_key="wrong-wrong-wrong")
    outcomes = remove(store, ["a", "b"])
    assert [(type(each), each.key) for each in outcomes] == [(AccessDeniedError, "a"), (AccessDeniedError, "b")]
    run(store.close())


def test_a_missing_bucket_is_never_a_removal(server: s3.StrictEndpoint) -> None:
    store = connect(server, bucket="no-such-bucket")
    outcomes = remove(store, ["a", "b"])
    assert all(isinstance(each, BackendError) and "bucket" in str(each) for each in outcomes)
    run(store.close())


def test_what_a_bucket_lock_keeps_is_locked(strict_r2: s3.StrictEndpoint) -> None:
    strict_r2.control.reset()
    store = connect(strict_r2)
    stats = put_all(store, ["a", "b"])
    strict_r2.control.configure(bucket_lock=60)
    assert [type(each) for each in remove(store, [*stats, "absent"])] == [LockedError, LockedError, type(None)]
    strict_r2.control.reset()
    run(store.close())


def test_what_replaced_a_version_that_is_gone_stays(b2: s3.StrictEndpoint) -> None:
    """Another program removed what was looked at, and stored something else under the name."""
    store, names = connect(b2), ["a", "b", "c"]
    stats = put_all(store, names)
    run(store.remove("a"))
    run(store.remove("b"))
    for name in names[:2]:
        s3.put_bytes(b2, name, b"newer")
    with pytest.raises(ConflictError):
        run(store.remove_version(stats[0]))
    assert [type(each) for each in remove(store, stats)] == [ConflictError, ConflictError, type(None)]
    assert [s3.read_bytes(b2, name) for name in names[:2]] == [b"newer"] * 2
    for name in names[:2]:
        run(store.remove(name))
    assert remove(store, stats) == [None] * 3
    run(store.close())


@pytest.fixture
def b2(strict_b2: s3.StrictEndpoint) -> s3.StrictEndpoint:
    """The strict B2, empty and never busy."""
    strict_b2.control.reset()
    strict_b2.control.configure(unavailable_every=0)
    return strict_b2


def test_all_versions_go_the_newest_last(b2: s3.StrictEndpoint) -> None:
    """Cut off in between, a reader finds the newest version or none, never an older one."""
    for name in numbered(15):
        for content in (b"1", b"2", b"3"):
            s3.put_bytes(b2, name, content)
    s3.delete_key(b2, "dir/0014")
    with fault_proxy(b2) as proxy:
        store = connect(proxy.endpoint, page_size=7)
        proxy.add(Status(403, "AccessDenied"), on="delete_objects", first=2)
        proxy.add(Status(403, "AccessDenied"), on="delete")
        outcomes = remove(store, numbered(15))
        assert {type(each) for each in outcomes} == {AccessDeniedError}
        assert [s3.read_bytes(b2, name) for name in numbered(14)] == [b"3"] * 14
        assert len(s3.list_versions(b2)) == 15
        proxy.clear()
        assert remove(store, numbered(15)) == [None] * 15
        assert s3.list_versions(b2) == []
        assert b2.control.report().bytes_stored == 0
        run(store.close())


def _result(*entries: tuple[str, str, str]) -> Answer:
    """Answer to DeleteObjects with what it says of each key, perhaps with an error's code."""
    inner = "".join(
        f"<{tag}><Key>{key}</Key>{f'<Code>{code}</Code><Message>m</Message>' if code else ''}</{tag}>"
        for tag, key, code in entries
    )
    return Answer(f"<DeleteResult>{inner}</DeleteResult>".encode())


def _asked(answer: Answer, names: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return the outcomes of a removal that is answered so, and the names that were removed by a DELETE."""
    single: list[str] = []

    def script(request: S3Request) -> Answer:
        if request.operation == "delete":
            single.append(request.key)
            return Answer(status=204)
        return answer if request.operation == "delete_objects" else Answer(status=404)

    with scripted(script, profile=R2, timeout=0.5) as store:
        return remove(store, names), single


@pytest.mark.parametrize(
    ("said", "asked_again"),
    [
        ([], ["a", "b"]),
        ([("Deleted", "a", "")], ["b"]),
        ([("Deleted", "a", ""), ("Deleted", "another", "")], ["b"]),
        ([("Deleted", "a", ""), ("Error", "b", "InternalError")], ["b"]),
        ([("Deleted", "a", ""), ("Error", "b", "SlowDown")], ["b"]),
        ([("Deleted", "a", ""), ("Error", "b", "NoSuchKey")], []),
        ([("Deleted", "b", ""), ("Deleted", "a", "")], []),
    ],
)
def test_what_the_answer_does_not_confirm_is_asked_again(
    said: list[tuple[str, str, str]], asked_again: list[str]
) -> None:
    outcomes, single = _asked(_result(*said), ["a", "b"])
    assert outcomes == [None, None]
    assert sorted(single) == asked_again


@pytest.mark.parametrize(
    ("code", "kind"),
    [("AccessDenied", AccessDeniedError), ("ObjectLockedByBucketPolicy", LockedError), ("Strange", BackendError)],
)
def test_an_error_of_one_name_is_its_own(code: str, kind: type[BackendError]) -> None:
    outcomes, single = _asked(_result(("Error", "b", code), ("Deleted", "a", "")), ["a", "b"])
    assert outcomes[0] is None
    assert type(outcomes[1]) is kind
    assert (outcomes[1].key, outcomes[1].operation) == ("b", "remove")
    assert code in str(outcomes[1])
    assert single == []


def test_an_object_lock_is_named() -> None:
    def script(request: S3Request) -> Answer:
        if request.operation == "head":
            return Answer(headers={"x-amz-object-lock-legal-hold": "ON"})
        return _result(("Error", "b", "AccessDenied"), ("Deleted", "a", ""))

    with scripted(script, profile=R2) as store:
        locked = remove(store, ["a", "b"])[1]
    assert type(locked) is LockedError
    assert "the object has a legal hold" in str(locked)
    assert locked.key == "b"


def test_an_error_wins_over_a_confirmation() -> None:
    outcomes, _ = _asked(
        _result(("Deleted", "a", ""), ("Deleted", "b", ""), ("Error", "b", "Strange")), ["a", "b"]
    )
    assert [type(each) for each in outcomes] == [type(None), BackendError]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<ListBucketResult/>",
        b"<Error><Code>InternalError</Code></Error>",
        b"<!DOCTYPE x><DeleteResult/>",
        b"<DeleteResult>" + b" " * (17 << 20) + b"</DeleteResult>",
    ],
    ids=["empty", "html", "another", "error", "doctype", "endless"],
)
def test_an_answer_that_is_none_confirms_nothing(body: bytes) -> None:
    outcomes, single = _asked(Answer(body), ["a", "b"])
    assert all(isinstance(each, BackendError) for each in outcomes) or sorted(single) == ["a", "b"]


def test_names_that_xml_changes_are_removed_one_by_one() -> None:
    outcomes, single = _asked(_result(("Deleted", "a", ""), ("Deleted", "b", "")), ["a", "b", "c\rd", "e\x01f"])
    assert outcomes == [None] * 4
    assert sorted(single) == ["c\rd", "e\x01f"]


def test_a_silent_service_ends_within_the_timeout() -> None:
    with scripted(lambda _: Answer(headers={"Content-Length": "10"}), profile=R2, timeout=0.5) as store:
        assert {type(each) for each in remove(store, ["a", "b"])} == {BackendUnavailableError}
