"""Reports: their status, their JSON form, and the exception of a failed one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from fsbackup.engine.results import (
    BaseReport,
    DownloadReport,
    ReplicaResult,
    Report,
    Serializable,
    Status,
    to_json,
)
from fsbackup.errors import (
    AccessDeniedError,
    BackendUnavailableError,
    FsbackupError,
    SourceChangedError,
    TooFewCopiesError,
)


def denied(backend: str, message: str = "AccessDenied", hint: str | None = "check the key") -> FsbackupError:
    return AccessDeniedError(message, backend=backend, operation="upload", key="k", hint=hint)


def report(errors: Mapping[str, FsbackupError | None], min_copies: int = 2) -> Report:
    replicas = {name: ReplicaResult(name, error is None, 0.5, exception=error) for name, error in errors.items()}
    return Report("upload", "k", min_copies, replicas, 1.23456)


def test_json_of_an_upload() -> None:
    denial = denied("b2")
    result = report({"r2": None, "b2": denial}, min_copies=1)
    assert json.loads(json.dumps(result.as_dict())) == {
        "operation": "upload",
        "key": "k",
        "status": "degraded",
        "size": None,
        "sha256": None,
        "generation": None,
        "plain_size": None,
        "seconds": 1.235,
        "replicas": {
            "r2": {
                "ok": True,
                "already": False,
                "seconds": 0.5,
                "bytes_sent": 0,
                "error": None,
                "error_type": None,
            },
            "b2": {
                "ok": False,
                "already": False,
                "seconds": 0.5,
                "bytes_sent": 0,
                "error": str(denial),
                "error_type": "AccessDeniedError",
            },
        },
    }


def test_json_of_a_download() -> None:
    done = DownloadReport("k", 3, "ab", True, {"r2": 3}, {"b2": "timeout"}, 0.12345)
    assert done
    assert done.status == "complete"
    assert done.as_dict() == {
        "key": "k",
        "size": 3,
        "sha256": "ab",
        "verified": True,
        "already": False,
        "proven": True,
        "replicas": {"r2": 3},
        "failed": {"b2": "timeout"},
        "plain_size": None,
        "target": None,
        "seconds": 0.123,
    }


@dataclass(frozen=True)
class Inner:
    """A dataclass that knows nothing of reports."""

    path: Path
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line(Serializable):
    """A part of a report."""

    name: str
    seconds: float

    json_excluded: ClassVar[tuple[str, ...]] = ("name",)


@dataclass(frozen=True, slots=True)
class Example(BaseReport):
    """A report with something of every kind."""

    bad: bool
    lines: Mapping[str, Line]
    inner: Inner | None
    tags: frozenset[str]
    error: Exception

    @property
    def status(self) -> Status:
        return "failed" if self.bad else "complete"


def test_json_of_nested_values() -> None:
    example = Example(True, {"a": Line("a", 0.98765)}, Inner(Path("/x"), ("p",)), frozenset("zy"), OSError("no"))
    assert not example
    expected = {
        "status": "failed",
        "bad": True,
        "lines": {"a": {"seconds": 0.988}},
        "inner": {"path": "/x", "names": ["p"]},
        "tags": ["y", "z"],
        "error": "no",
    }
    assert example.as_dict() == expected
    assert json.loads(json.dumps(to_json([example]))) == [expected]


def test_status_must_be_defined() -> None:
    with pytest.raises(TypeError, match="status"):
        BaseReport()  # type: ignore[abstract]


def test_one_replica_raises_its_own_error() -> None:
    error = denied("r2")
    assert report({"r2": error}, min_copies=1).failure() is error


def test_the_error_of_the_source_is_raised_as_it_is() -> None:
    error = SourceChangedError("it changed")
    assert report({"r2": error, "b2": error}).failure() is error


def test_one_message_names_all_backends() -> None:
    errors = {"r2": denied("r2"), "b2": denied("b2")}
    errors["r2"].__cause__ = cause = ValueError("below")
    failure = report(errors).failure()
    assert type(failure) is AccessDeniedError
    assert str(failure) == "r2, b2: upload 'k': AccessDenied - check the key"
    assert failure.cause is cause


def test_different_messages_are_all_there() -> None:
    failure = report({"r2": denied("r2"), "b2": denied("b2", "no quota", None), "x": denied("x")}).failure()
    assert type(failure) is AccessDeniedError
    assert str(failure) == "upload 'k': r2, x: AccessDenied; b2: no quota - check the key"


def test_too_few_copies_says_each_fact_once() -> None:
    away = BackendUnavailableError("timeout", backend="b2", operation="upload", key="k", hint="check the line")
    failure = report({"local": None, "r2": denied("r2"), "b2": away}).failure()
    assert type(failure) is TooFewCopiesError
    assert str(failure) == (
        "upload 'k': stored on local only, 2 of 3 copies are required: r2: AccessDenied; b2: timeout"
        " - check the key; check the line; run the same again: confirmed replicas receive nothing twice"
    )
