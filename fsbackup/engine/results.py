"""Reports: frozen values that say how an operation went, and their JSON form.

Every report of the package derives from `BaseReport`, every part of a report (one replica's result, one file's
outcome) from `Serializable`. A subclass is a dataclass; its fields are its JSON members. It has its own `as_dict`
only where the JSON form differs from the fields, and starts from ``Serializable.as_dict(self)`` there: plain
``super()`` fails in a dataclass with slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal

from fsbackup.errors import FsbackupError, TooFewCopiesError, combined_hint, summary

Status = Literal["complete", "degraded", "failed"]


class Serializable:
    """Base of dataclasses with a JSON form.

    Attributes
    ----------
    json_properties
        Names of properties that the JSON form has besides the fields.
    json_excluded
        Names of fields that it leaves out, such as a name that is already the key of the mapping around it.
    """

    __slots__ = ()

    json_properties: ClassVar[tuple[str, ...]] = ()
    json_excluded: ClassVar[tuple[str, ...]] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the properties and fields as plain JSON types (see `to_json`); `seconds` has 3 decimals."""
        return {name: to_json(value) for name, value in self._members() if name not in self.json_excluded}

    def _members(self) -> list[tuple[str, Any]]:
        names = (*self.json_properties, *_field_names(self))
        pairs = [(name, getattr(self, name)) for name in names]
        return [(name, round(value, 3) if name == "seconds" else value) for name, value in pairs]


class BaseReport(Serializable, ABC):
    """Base of all reports; true unless the operation failed.

    A command's exit code follows from `status`: 0 complete, 3 degraded, 1 failed.
    """

    __slots__ = ()

    json_properties: ClassVar[tuple[str, ...]] = ("status",)

    @property
    @abstractmethod
    def status(self) -> Status:
        """``"complete"``, ``"degraded"`` (done, but not on every replica) or ``"failed"``."""

    def __bool__(self) -> bool:
        return self.status != "failed"


def to_json(value: Any) -> Any:
    """Return `value` as plain JSON types.

    A `Serializable` becomes its `as_dict`, another dataclass a dictionary of its fields, a sequence a list, a set
    a sorted list, a path or exception its text; mappings keep their order, and their keys become text.
    """
    match value:
        case Serializable():
            return value.as_dict()
        case Mapping():
            return {str(name): to_json(each) for name, each in value.items()}
        case PurePath() | BaseException():
            return str(value)
        case Set():
            return sorted(to_json(each) for each in value)
        case Sequence() if not isinstance(value, str):
            return [to_json(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: to_json(getattr(value, name)) for name in _field_names(value)}
    return value


def _field_names(value: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(value))


@dataclass(frozen=True, slots=True)
class ReplicaResult(Serializable):
    """One replica's result.

    Parameters
    ----------
    backend
        The backend's name.
    ok
        True only when the backend confirmed the operation after the last byte.
    seconds
        From the operation's start to this replica's end.
    bytes_sent
        Bytes of the object sent in this operation; 0 when the replica had the object already.
    already
        The replica held the same content before, proven by manifest, size and checksum; nothing was sent.
    exception
        Why it failed, None when ok.
    """

    backend: str
    ok: bool
    seconds: float
    bytes_sent: int = 0
    already: bool = False
    exception: FsbackupError | None = field(default=None, compare=False, repr=False)

    json_properties: ClassVar[tuple[str, ...]] = ("error", "error_type")
    json_excluded: ClassVar[tuple[str, ...]] = ("backend", "exception")

    @property
    def error(self) -> str | None:
        """The exception's text, None when ok."""
        return None if self.exception is None else str(self.exception)

    @property
    def error_type(self) -> str | None:
        """The name of the exception's class, None when ok."""
        return None if self.exception is None else type(self.exception).__name__


@dataclass(frozen=True, slots=True)
class Report(BaseReport):
    """How an upload or delete of one object went on every replica of a set.

    Parameters
    ----------
    operation
        ``"upload"`` or ``"delete"``.
    key
        The object.
    min_copies
        How many copies the set requires.
    replicas
        One result per backend, by name, in the set's order.
    seconds
        Wall time.
    size, sha256
        What was stored; None when the source was not read to its end, and for deletes.
    generation
        Of what was stored or deleted; None when the source was not read to its end, and when nothing was known
        that could be deleted.
    plain_size
        Bytes of the source, where stages (compression, encryption) made other bytes of it; else None.
    """

    operation: str
    key: str
    min_copies: int
    replicas: Mapping[str, ReplicaResult]
    seconds: float
    size: int | None = None
    sha256: str | None = None
    generation: int | None = None
    plain_size: int | None = None

    json_excluded: ClassVar[tuple[str, ...]] = ("min_copies",)

    @property
    def status(self) -> Status:
        """``"complete"``: every replica confirmed; ``"degraded"``: enough did; else ``"failed"``.

        Enough are `min_copies`. Of a delete, a tombstone on these keeps the object deleted; where no replica had
        anything there is no tombstone, and what one has that did not answer would stay.
        """
        if self.confirmed == len(self.replicas):
            return "complete"
        is_lasting = self.operation != "delete" or self.generation is not None
        return "degraded" if self.confirmed >= self.min_copies and is_lasting else "failed"

    @property
    def confirmed(self) -> int:
        """How many replicas confirmed."""
        return sum(result.ok for result in self.replicas.values())

    @property
    def already(self) -> bool:
        """Whether every replica held the same content before, so that nothing was sent."""
        return all(result.already for result in self.replicas.values())

    @property
    def errors(self) -> dict[str, FsbackupError]:
        """Why a replica failed, by name."""
        return {name: result.exception for name, result in self.replicas.items() if result.exception is not None}

    def failure(self) -> FsbackupError:
        """Return the exception for a failed report.

        It is the replicas' own class when all failed with the same one, else `TooFewCopiesError`. Its text names
        every backend that failed; a message or hint that several share is given once.
        """
        errors = self.errors
        first = next(iter(errors.values()), None)
        if first is not None and len(errors) == len(self.replicas) and len(set(map(type, errors.values()))) == 1:
            return self._combined(first, errors)
        stored = [name for name, each in self.replicas.items() if each.ok]
        done = "stored" if self.operation == "upload" else "deleted"
        where = f"{done} on {', '.join(stored)} only" if stored else f"{done} nowhere"
        required = f", {self.min_copies} of {len(self.replicas)} copies are required" if done == "stored" else ""
        return TooFewCopiesError(
            f"{where}{required}: {summary(errors)}",
            operation=self.operation,
            key=self.key,
            hint=combined_hint(errors, "run the same again: confirmed replicas receive nothing twice"),
        )

    def _combined(self, first: FsbackupError, errors: Mapping[str, FsbackupError]) -> FsbackupError:
        # One replica; or one error for all of them, of the source, or of the replica that it names.
        if first.backend is None or all(each is first for each in errors.values()):
            return first
        same = len({error.message for error in errors.values()}) == 1
        combined = type(first)(
            first.message if same else summary(errors),
            backend=", ".join(errors) if same else None,
            operation=self.operation,
            key=self.key,
            hint=combined_hint(errors),
        )
        combined.__cause__ = first.__cause__
        return combined


def is_deleted(confirmed: int, replicas: int, min_copies: int) -> bool:
    """Return whether readers find an object deleted when so many of its replicas have confirmed that.

    `min_copies`, or so many that the others are fewer: what these have is not confirmed any more.
    """
    return confirmed > 0 and (confirmed >= min(min_copies, replicas) or replicas - confirmed < min_copies)


@dataclass(frozen=True, slots=True)
class DownloadReport(BaseReport):
    """What was read, and from which replicas; a download that fails raises instead.

    Parameters
    ----------
    key, size, sha256
        The object.
    verified
        False when no replica has a manifest for it, so that nothing proves the bytes.
    replicas
        Bytes read from each backend, by name.
    failed
        Why a replica was not (or no longer) read from, by name.
    seconds
        Wall time.
    already
        The file already had exactly these bytes, proven, and nothing was read from any replica.
    proven
        Enough replicas answered to prove that no confirmed version is newer.
    plain_size
        Bytes that became of it where stages (compression, encryption) were undone; else None.
    target
        The file; None for a stream.
    """

    key: str
    size: int
    sha256: str
    verified: bool
    replicas: Mapping[str, int]
    failed: Mapping[str, str]
    seconds: float
    already: bool = False
    proven: bool = True
    plain_size: int | None = None
    target: Path | None = None

    @property
    def restored_bytes(self) -> int:
        """Bytes of the file or stream."""
        return self.size if self.plain_size is None else self.plain_size

    json_properties: ClassVar[tuple[str, ...]] = ()

    @property
    def status(self) -> Status:
        """Always ``"complete"``: the whole object was read."""
        return "complete"
