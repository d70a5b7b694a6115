"""How a job fared, as a whole and file by file: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fsbackup.engine.results import BaseReport, Report, Serializable, Status

if TYPE_CHECKING:
    from fsbackup.replication.prune import PruneReport

#: `"stored"`: sent and confirmed in every place; `"already"`: every place had it, nothing was sent;
#: `"degraded"`: enough copies, not all; `"failed"`: not backed up.
FileStatus = Literal["stored", "already", "degraded", "failed"]
SourceKind = Literal["files", "command", "items"]


@dataclass(frozen=True, slots=True)
class FileResult(Serializable):
    """How one file of a job fared.

    Parameters
    ----------
    path
        The file, or the command with its item.
    key
        What it is stored as; None when it got none.
    status
        See `FileStatus`.
    report
        What each replica did; None when the file could not be read.
    error
        Why it is degraded or failed, None otherwise.
    error_type
        The name of the exception's class, None without an error.
    before
        Bytes of the last object of its series, if this one is suspiciously small beside it (the job's `shrink`);
        None otherwise.
    """

    path: str
    key: str | None
    status: FileStatus
    report: Report | None = field(default=None, repr=False)
    error: str | None = None
    error_type: str | None = None
    before: int | None = None

    def as_dict(self, *, brief: bool = False) -> dict[str, Any]:
        """Return the outcome as plain JSON types, with `brief` without what each replica did."""
        fields: dict[str, Any] = {
            "path": self.path,
            "key": self.key,
            "status": self.status,
            "error": self.error,
            "error_type": self.error_type,
            "before": self.before,
        }
        if brief:
            return fields
        report = self.report
        return {
            **fields,
            "size": report.size if report else None,
            "sha256": report.sha256 if report else None,
            "replicas": report.as_dict()["replicas"] if report else {},
        }


@dataclass(frozen=True, slots=True)
class BackendCounts(Serializable):
    """One backend's part in a job.

    Parameters
    ----------
    location
        Where it keeps its copies, for people.
    stored, already, failed
        Files sent to it and confirmed, files it had already, files it could not take.
    bytes_sent
        Bytes sent to it.
    seconds
        From the job's start to its last file.
    error
        The first of its errors, None without one.
    """

    location: str
    stored: int
    already: int
    failed: int
    bytes_sent: int
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class JobReport(BaseReport):
    """How a job fared; true unless it failed.

    Parameters
    ----------
    job, replication
        The job, and the set it stores to.
    stored, already, degraded, failed
        Files by their status; together all files of the job.
    source
        What they are: ``"files"``, the output of one ``"command"``, or ``"items"`` of `for_each`, each of which
        fails for itself.
    shrunk
        Those of them that are suspiciously small beside the last of their series (the job's `shrink`).
    skipped
        What is no file to back up: links, FIFOs, sockets, devices, the backends' own directories.
    bytes_read
        Bytes of the files that were read to their end.
    seconds
        Wall time.
    backends
        Each backend's part, by name.
    problems
        The first failed, degraded and shrunk files (at most 100); the counts have them all.
    prune
        What the prune after it did; None without one.
    prefix
        What the keys of all its runs lie below; empty where there is no such thing.
    """

    job: str
    replication: str
    stored: int
    already: int
    degraded: int
    failed: int
    skipped: int
    bytes_read: int
    seconds: float
    backends: Mapping[str, BackendCounts]
    problems: tuple[FileResult, ...]
    prune: PruneReport | None = None
    source: SourceKind = "files"
    shrunk: int = 0
    prefix: str = ""

    json_properties: ClassVar[tuple[str, ...]] = ("status", "files")

    @property
    def files(self) -> int:
        """How many files the job has, a directory that cannot be read counting as one."""
        return self.stored + self.already + self.degraded + self.failed

    @property
    def stored_status(self) -> Status:
        """``"complete"``: every file in every place; ``"degraded"``: in enough of them; else ``"failed"``.

        Of the items of `for_each` some may fail: the job is degraded then, and has failed when all did.
        """
        if self.failed and not (self.source == "items" and self.failed < self.files):
            return "failed"
        return "degraded" if self.degraded or self.failed else "complete"

    @property
    def status(self) -> Status:
        """`stored_status`; ``"degraded"`` at best when the prune after it was not complete."""
        pruned = self.prune is None or self.prune.status == "complete"
        return "degraded" if self.stored_status == "complete" and not pruned else self.stored_status

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types; the problems without what each replica did."""
        return {**Serializable.as_dict(self), "problems": [each.as_dict(brief=True) for each in self.problems]}
