"""What our own requests are held against: those of boto, on the wire and in what is raised."""

from __future__ import annotations

from fsbackup.stores.s3.errors import code_of
from tests.servers.exchange import Record

#: The signature and its time, and what boto tells of its own tries.
_OWN = {"authorization", "x-amz-date", "amz-sdk-invocation-id", "amz-sdk-request"}


def assert_same_request(ours: Record, botos: Record, *differing: str) -> None:
    """Both say the same, but for some headers `differing` each time, and the first one is not boto's."""
    mine, theirs = (_said(each, _OWN | set(differing)) for each in (ours, botos))
    assert (ours.method, ours.bucket, ours.query) == (botos.method, botos.bucket, botos.query)
    assert mine == theirs
    assert mine["user-agent"].startswith("fsbackup/")
    assert "amz-sdk-request" not in {name.lower() for name, _ in ours.headers}  # or this was boto's as well


def _said(record: Record, apart_from: set[str]) -> dict[str, str]:
    return {name.lower(): value for name, value in record.headers if name.lower() not in apart_from}


def assert_same_error(ours: object, botos: object, status: int, code: str) -> None:
    """Ours was made of an error like boto's, which was an answer with ``Retry-After: 0``."""
    assert isinstance(ours, Exception)
    assert isinstance(botos, Exception)
    assert (code_of(ours), type(ours.__cause__)) == (code, type(botos))
    mine, theirs = (getattr(one, "response", {}) for one in (ours.__cause__, botos))
    told = str(botos).replace(" (reached max retries: 0)", "")  # the tries are not boto's
    assert (mine["Error"]["Code"], str(ours.__cause__)) == (theirs["Error"]["Code"], told)
    assert mine["ResponseMetadata"]["HTTPStatusCode"] == theirs["ResponseMetadata"]["HTTPStatusCode"] == status
    assert mine["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "0"
