"""What our own requests are held against: those of boto, on the wire and in what is raised."""

from __future__ import annotations

from botocore.exceptions import ClientError

from fsbackup.errors import BackendError
from fsbackup.stores.s3.errors import AnswerError, CallContext, code_of, retry_after, translate
from tests.servers.exchange import Record

#: The signature and its time, what boto tells of its own tries, and what aiohttp adds.
_OWN = {"authorization", "x-amz-date", "amz-sdk-invocation-id", "amz-sdk-request", "accept"}


def assert_same_request(ours: Record, botos: Record, *differing: str) -> None:
    """Both say the same, but for some headers `differing` each time, and the first one is not boto's."""
    mine, theirs = (_said(each, _OWN | set(differing)) for each in (ours, botos))
    assert all(each.pop("user-agent").startswith("fsbackup/") for each in (mine, theirs))
    assert (ours.method, ours.bucket, ours.query) == (botos.method, botos.bucket, botos.query)
    assert mine == theirs, set(mine.items()) ^ set(theirs.items())
    assert "amz-sdk-request" not in {name.lower() for name, _ in ours.headers}  # or this was boto's as well


def _said(record: Record, apart_from: set[str]) -> dict[str, str]:
    return {name.lower(): value for name, value in record.headers if name.lower() not in apart_from}


def assert_same_error(ours: object, botos: object, status: int, code: str) -> None:
    """Ours says what is made of boto's, both of an answer with ``Retry-After: 0``."""
    assert isinstance(ours, BackendError)
    assert isinstance(botos, ClientError)
    context = CallContext(ours.backend or "", ours.operation or "", ours.key or "", 1.0)
    said, about = botos.response["Error"], botos.response["ResponseMetadata"]
    answer = AnswerError(about["HTTPStatusCode"], said["Code"], said["Message"], about["HTTPHeaders"])
    same = translate(answer, context, ())
    same.__cause__ = answer
    assert (type(ours), ours.message, ours.hint) == (type(same), same.message, same.hint)
    assert code_of(ours) == code_of(same) == code
    assert getattr(ours.__cause__, "status", None) == status
    assert retry_after(ours) == retry_after(same) == 0.0
