"""Restores a tree: every object at or below a prefix into a directory, many at the same time, and resumable."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fsbackup.aio import for_each
from fsbackup.engine import marker, restore
from fsbackup.engine.replicas import MemoryBudget, ReplicaSet
from fsbackup.engine.restore import OnProgress, Rename
from fsbackup.engine.results import BaseReport, DownloadReport, Serializable, Status
from fsbackup.engine.survey import is_known_away
from fsbackup.errors import (
    ConflictError,
    FsbackupError,
    NoHealthyReplicaError,
    ObjectLostError,
    ObjectNotFoundError,
)
from fsbackup.keys import FoundKeys
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.walk import KeyEntry, Walk
from fsbackup.stages import Undo
from fsbackup.stages.plaintext import Recorded
from fsbackup.stores.local.directory import SafeDirectory
from fsbackup.stores.names import has_strangers_name

#: Objects restored at the same time; their parts share the set's memory.
WORKERS = 16
#: Failures that a report has by name; it counts them all.
MAX_NAMED = 1000


@dataclass(frozen=True, slots=True)
class RestoredObject(Serializable):
    """The result of one object of a tree.

    Parameters
    ----------
    key, target
        The object, and its file.
    report
        How it was read; None when it was not.
    error
        Why it was not restored; None when it was.
    """

    key: str
    target: Path
    report: DownloadReport | None = None
    error: Exception | None = None

    json_properties: ClassVar[tuple[str, ...]] = ("error_type",)

    @property
    def error_type(self) -> str | None:
        """The name of the error's class, None where there is no error."""
        return None if self.error is None else type(self.error).__name__


@dataclass
class TreeReport(BaseReport):
    """The result of restoring a tree.

    Parameters
    ----------
    prefix, directory
        What was restored, and to where.
    objects, bytes
        Objects that are in the directory now, and their bytes.
    already
        How many of them were there before.
    unverified
        How many have no manifest, so that nothing proves their bytes.
    unproven
        How many may have a newer version, because too few backends answered.
    failures
        How many could not be restored; `failed` has the first 1,000 of them.
    unlisted
        Why a backend could not be listed, by name: objects that only it holds are not in the directory.
    seconds
        Wall time.
    """

    prefix: str
    directory: Path
    objects: int = 0
    bytes: int = 0
    already: int = 0
    unverified: int = 0
    unproven: int = 0
    failures: int = 0
    failed: list[RestoredObject] = field(default_factory=list)
    unlisted: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def status(self) -> Status:
        """``"failed"``: an object could not be restored; ``"degraded"``: a backend could not be listed."""
        if self.failures:
            return "failed"
        return "degraded" if self.unlisted else "complete"

    @property
    def is_empty(self) -> bool:
        """Whether no object was found."""
        return not self.objects and not self.failures

    def count(self, restored: RestoredObject) -> None:
        """Add one object."""
        if restored.report is None:
            self.failures += 1
            if len(self.failed) < MAX_NAMED:
                self.failed.append(restored)
            return
        self.objects += 1
        self.bytes += restored.report.restored_bytes
        self.already += restored.report.already
        self.unverified += not restored.report.verified
        self.unproven += not restored.report.proven


#: Called with each object as it is done, on the I/O thread.
OnObject = Callable[[RestoredObject], None]
#: Returns the function that is called with one key's progress, or None.
MakeProgress = Callable[[str], OnProgress | None]


async def restore_tree(
    targets: ReplicaSet,
    prefix: str,
    directory: Path,
    *,
    owner: bool = False,
    undo: Undo | None = None,
    on_object: OnObject | None = None,
    make_progress: MakeProgress | None = None,
) -> TreeReport:
    """Restore every object at or below `prefix` into `directory`, under its key without the prefix.

    With `undo`, also without the suffixes of the stages that were undone.

    No link below `directory` is followed, and what is not a regular file is neither opened nor counts as restored.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    ObjectNotFoundError
        When a quorum of the replicas could be listed and none has an object at or below `prefix`.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    report = TreeReport(prefix, directory)
    restorer = _TreeRestore(targets, report, owner, undo, on_object, make_progress)
    errors = await restorer.restore_listed()
    if report.is_empty and not _is_quorum(targets, errors) and any(map(is_known_away, errors.values())):
        errors = await restorer.restore_listed(insist=True)
    report.seconds = clock() - started
    if report.is_empty:
        raise _nothing_found(prefix, report.unlisted, proven=_is_quorum(targets, errors))
    return report


def _is_quorum(targets: ReplicaSet, errors: Mapping[str, FsbackupError]) -> bool:
    """Return whether the replicas that could be listed list every object that was confirmed."""
    return targets.is_quorum([store.name for store in targets.stores if store.name not in errors])


class _TreeRestore:
    """Restores objects."""

    def __init__(
        self,
        targets: ReplicaSet,
        report: TreeReport,
        owner: bool,
        undo: Undo | None,
        on_object: OnObject | None,
        make_progress: MakeProgress | None,
    ) -> None:
        self._targets = targets
        self._report = report
        self._directory = SafeDirectory(os.path.abspath(report.directory), create=True)
        self._owner = owner
        self._undo = undo
        self._on_object = on_object
        self._make_progress = make_progress
        self._budget = MemoryBudget(targets.memory)
        #: The files of this tree: several objects may lose their suffixes and mean one file.
        self._files = FoundKeys()

    async def restore_listed(self, *, insist: bool = False) -> dict[str, FsbackupError]:
        """Restore what the replicas list; return why one could not be listed, or what it lacks proves nothing."""
        walk = Walk(self._targets.stores, self._report.prefix, records=False, insist=insist)
        await for_each(walk.keys(), self.restore, WORKERS)
        errors = walk.errors
        if self._report.is_empty:
            listed = [each for each in self._targets.stores if each.name not in errors]
            errors |= await marker.doubts(listed, self._report.prefix)
        self._report.unlisted = {name: str(error) for name, error in errors.items()}
        return errors

    async def restore(self, entry: KeyEntry) -> None:
        """Restore one object and count it; a key that is deleted, though a replica still lists it, is none."""
        if await self._is_foreign(entry):
            return
        size = max(listed.data.size for listed in entry.replicas.values() if listed and listed.data)
        path = Path(_relative_path(entry.key, self._report.prefix))
        async with self._budget.reserve(size):
            restored = await self._restore(entry, path)
        if restored is not None:
            self._report.count(restored)
            if self._on_object:
                self._on_object(restored)

    async def _is_foreign(self, entry: KeyEntry) -> bool:
        """Tell what an operating system left in a bucket from an object: a disk lists no such thing."""
        listed = [each for each in entry.replicas.values() if each and each.data]
        if not (has_strangers_name(entry.key) and all(each.inside for each in listed)):
            return False
        return (await Inspector(self._targets).inspect(entry.key)).is_foreign

    async def _restore(self, entry: KeyEntry, path: Path) -> RestoredObject | None:
        key = entry.key
        progress = self._make_progress(key) if self._make_progress else None
        target = self._report.directory / path
        rename = self._claiming(key)
        try:
            report = await restore.download(
                self._targets,
                key,
                path,
                below=self._directory,
                owner=self._owner,
                on_progress=progress,
                keep_identical=True,
                undo=self._undo,
                rename=rename,
                listed={name: each.data for name, each in entry.replicas.items() if each and each.data},
            )
        except (FsbackupError, OSError) as error:
            if isinstance(error, ObjectNotFoundError) and not isinstance(error, ObjectLostError):
                return None
            return RestoredObject(key, target, error=error)
        return RestoredObject(key, self._report.directory / (report.target or path), report)

    def _claiming(self, key: str) -> Rename:
        """Return what drops the suffixes from an object's file, and refuses a file that another object has."""
        claimed: list[Path] = []

        def rename(path: Path, recorded: Recorded | None) -> Path:
            file = restore.without_suffix(path, recorded)
            if file not in claimed and str(file) in self._files:
                raise ConflictError(
                    f"another object of this tree is restored to {file}, too",
                    operation="restore",
                    key=key,
                    hint="restore it by itself, or all as they are stored: --raw (raw=True in Python)",
                )
            claimed.append(file)
            self._files.add(str(file))
            return file

        return rename


def _relative_path(key: str, prefix: str) -> str:
    """Return a key's path below the prefix, or its own last segment when it is the prefix."""
    rest = key.removeprefix(prefix.removesuffix("/")).removeprefix("/") if prefix else key
    return rest or key.rpartition("/")[2]


def _nothing_found(prefix: str, unlisted: Mapping[str, str], *, proven: bool) -> FsbackupError:
    if not proven:
        reasons = "; ".join(unlisted.values())
        return NoHealthyReplicaError(
            f"no replica lists an object, and too few could be listed: {reasons}", operation="get", key=prefix
        )
    return ObjectNotFoundError("there is nothing at or below it", operation="get", key=prefix)
