"""What the operations report: frozen values, one result per replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fsbackup.errors import FsbackupError, TooFewCopiesError

Status = Literal["complete", "degraded", "failed"]


@dataclass(frozen=True, slots=True)
class ReplicaResult:
    """How one replica fared.

    Parameters
    ----------
    backend
        Its name.
    ok
        True only when the backend confirmed what was asked after the last byte.
    seconds
        From the operation's start to this replica's end.
    bytes_sent
        Bytes of the object sent to it in this operation; 0 when it had the object already.
    already
        It held the same content before, proven by manifest, size and checksum; nothing was sent.
    exception
        Why it failed, None when ok.
    """

    backend: str
    ok: bool
    seconds: float
    bytes_sent: int = 0
    already: bool = False
    exception: FsbackupError | None = field(default=None, compare=False, repr=False)

    @property
    def error(self) -> str | None:
        """Why it failed, for people; None when ok."""
        return None if self.exception is None else str(self.exception)

    @property
    def error_type(self) -> str | None:
        """The name of the exception's class, None when ok."""
        return None if self.exception is None else type(self.exception).__name__

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON types."""
        return {
            "ok": self.ok,
            "already": self.already,
            "seconds": round(self.seconds, 3),
            "bytes_sent": self.bytes_sent,
            "error": self.error,
            "error_type": self.error_type,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """How an operation on one object fared on every replica of a set; true unless it failed.

    Parameters
    ----------
    operation
        ``"upload"`` or ``"delete"``.
    key
        The object.
    min_copies
        How many replicas had to succeed.
    replicas
        One result per backend, by name, in the set's order.
    seconds
        Wall time.
    size, sha256, generation
        What was stored; None when the source was not read to its end, and for deletes.
    """

    operation: str
    key: str
    min_copies: int
    replicas: Mapping[str, ReplicaResult]
    seconds: float
    size: int | None = None
    sha256: str | None = None
    generation: int | None = None

    @property
    def status(self) -> Status:
        """``"complete"``: every replica; ``"degraded"``: at least `min_copies`; else ``"failed"``."""
        good = sum(result.ok for result in self.replicas.values())
        if good == len(self.replicas):
            return "complete"
        return "degraded" if good >= self.min_copies else "failed"

    def __bool__(self) -> bool:
        return self.status != "failed"

    @property
    def already(self) -> bool:
        """Whether every replica held the same content before, so that nothing was sent."""
        return all(result.already for result in self.replicas.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "operation": self.operation,
            "key": self.key,
            "status": self.status,
            "size": self.size,
            "sha256": self.sha256,
            "generation": self.generation,
            "seconds": round(self.seconds, 3),
            "replicas": {name: result.as_dict() for name, result in self.replicas.items()},
        }

    def failure(self) -> FsbackupError:
        """Return the exception to raise for a failed report: the replica's own when there is one cause."""
        failed = [result for result in self.replicas.values() if result.exception is not None]
        causes = {type(result.exception) for result in failed}
        if len(failed) == len(self.replicas) and len(causes) == 1 and failed[0].exception is not None:
            return failed[0].exception
        good = len(self.replicas) - len(failed)
        reasons = "; ".join(str(result.exception) for result in failed)
        return TooFewCopiesError(
            f"{good} of {len(self.replicas)} replicas confirmed it, {self.min_copies} are needed: {reasons}",
            operation=self.operation,
            key=self.key,
            hint="mend the failed backends and run the same again: what is stored is not sent again",
        )


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What was read, and from where.

    Parameters
    ----------
    key, size, sha256
        The object.
    verified
        False when no replica has a manifest for it, so that nothing proves the bytes.
    replicas
        Bytes taken from each backend, by name.
    failed
        Why a replica was passed over, by name.
    seconds
        Wall time.
    already
        The file was there with exactly these bytes, proven, and nothing was read from any replica.
    """

    key: str
    size: int
    sha256: str
    verified: bool
    replicas: Mapping[str, int]
    failed: Mapping[str, str]
    seconds: float
    already: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {
            "key": self.key,
            "size": self.size,
            "sha256": self.sha256,
            "verified": self.verified,
            "already": self.already,
            "replicas": dict(self.replicas),
            "failed": dict(self.failed),
            "seconds": round(self.seconds, 3),
        }
