"""Directories, which no backend has: what a listing shows below a prefix, and the empty ones of this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from fsbackup.engine import marker
from fsbackup.engine.survey import is_known_away
from fsbackup.errors import FsbackupError, ObjectNotFoundError, unproven_absence
from fsbackup.filesystem import paths
from fsbackup.filesystem.sets import OpenSet
from fsbackup.filesystem.versions import with_time
from fsbackup.keys import check_prefix
from fsbackup.replication.classify import ObjectStatus
from fsbackup.replication.ls import SetListing, has_objects

Info = dict[str, Any]


def directory_info(path: str) -> Info:
    """Return the info of a directory. It has no time: nothing is stored for it."""
    return {"name": path, "size": 0, "type": "directory"}


def _file_info(name: str, entry: ObjectStatus) -> Info:
    """Return the info of a file as far as a listing shows it."""
    present = [backend for backend, state in entry.states.items() if state == "present"]
    info = {"name": f"{name}/{entry.key}", "size": entry.size, "type": "file", "replicas": present}
    return with_time(info, entry.modified)


async def list_directory(opened: OpenSet, name: str, key: str) -> dict[str, Info]:
    """Return the entries of a directory (`key`; empty: the whole set) by path.

    It costs one LIST per replica and 1,000 entries, however many keys lie further below, and one more for each
    subdirectory that not all replicas list.

    Raises
    ------
    ObjectNotFoundError
        When nothing lies below, and a quorum of the replicas reports so.
    NoHealthyReplicaError
        When nothing is listed, and too few replicas could be listed.
    """
    found, errors = await _list_entries(opened, name, key)
    if not found and key:
        if must_insist(opened, errors):
            found, errors = await _list_entries(opened, name, key, insist=True)
        if not found:
            raise _not_found(opened, key, await _with_doubts(opened, key, errors))
    _report_incomplete(opened, key, errors)
    return found


def must_insist(opened: OpenSet, errors: dict[str, FsbackupError]) -> bool:
    """Return whether too few replicas could be listed, and some were not, because they are known to be away."""
    return not is_complete(opened, errors) and any(map(is_known_away, errors.values()))


async def _list_entries(
    opened: OpenSet, name: str, key: str, *, insist: bool = False
) -> tuple[dict[str, Info], dict[str, FsbackupError]]:
    """Return the entries of a directory, and why a replica could not be listed."""
    found: dict[str, Info] = {}
    listing = SetListing(opened.replica_set, _key_prefix(key), level=True, insist=insist)
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            path = f"{name}/{entry.key}"
            if entry.key.endswith("/"):
                found[path[:-1]] = directory_info(path[:-1])
            elif not entry.is_deleted:
                found[path] = _file_info(name, entry)
    return found, listing.errors


async def iter_files(
    opened: OpenSet,
    name: str,
    key: str,
    errors: dict[str, FsbackupError] | None = None,
    *,
    insist: bool = False,
) -> AsyncGenerator[Info, None]:
    """Yield every file below a directory, in the order of the keys.

    `errors` gets, at the end, the error of each replica that could not be listed: files that only it has are
    missing. With `insist`, who is known to be away is listed, too, without it when nothing else is found.

    Raises
    ------
    NoHealthyReplicaError
        At the end, when too few replicas could be listed and these list nothing.
    """
    listing = SetListing(opened.replica_set, _key_prefix(key), insist=insist)
    found = False
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            if not entry.is_deleted:
                found = True
                yield _file_info(name, entry)
    if not found and must_insist(opened, listing.errors):
        async with aclosing(iter_files(opened, name, key, errors, insist=True)) as files:
            async for info in files:
                yield info
        return
    if errors is not None:
        errors.update(listing.errors)
    if found:
        _report_incomplete(opened, key, listing.errors)
        return
    unknown = await _with_doubts(opened, key, listing.errors)
    if not is_complete(opened, unknown):
        raise _not_found(opened, key, unknown)


async def is_directory(opened: OpenSet, key: str) -> bool:
    """Return whether any object lies below `key`; the set itself is always a directory.

    Raises
    ------
    NoHealthyReplicaError
        When none is listed, and too few replicas could be listed.
    """
    if not key:
        return True
    found, errors = await has_objects(opened.replica_set, _key_prefix(key))
    if not found and must_insist(opened, errors):
        found, errors = await has_objects(opened.replica_set, _key_prefix(key), insist=True)
    if not found and not is_complete(opened, unknown := await _with_doubts(opened, key, errors)):
        raise _not_found(opened, key, unknown)
    return found


def _listed(opened: OpenSet, errors: dict[str, FsbackupError]) -> list[str]:
    return [store.name for store in opened.replica_set.stores if store.name not in errors]


async def _with_doubts(opened: OpenSet, key: str, errors: dict[str, FsbackupError]) -> dict[str, FsbackupError]:
    """Return the errors, also of replicas whose empty listing proves no absence."""
    listed = [store for store in opened.replica_set.stores if store.name not in errors]
    return {**errors, **await marker.doubts(listed, key)}


def is_complete(opened: OpenSet, errors: dict[str, FsbackupError]) -> bool:
    """Return whether the replicas that could be listed list every object that was confirmed."""
    return opened.replica_set.is_quorum(_listed(opened, errors))


def _report_incomplete(opened: OpenSet, key: str, errors: dict[str, FsbackupError]) -> None:
    """Warn, or raise as the set has it, when what is listed may not be all."""
    if not is_complete(opened, errors):
        said = "objects may be missing from what is listed"
        opened.replica_set.report_unproven(said, errors, operation="list", key=key)


def _not_found(opened: OpenSet, key: str, errors: dict[str, FsbackupError]) -> FsbackupError:
    if is_complete(opened, errors):
        return ObjectNotFoundError("no such object or directory", operation="list", key=key)
    listed = _listed(opened, errors)
    return unproven_absence(errors, listed, operation="list", key=key, answer="nothing is listed there")


def _key_prefix(key: str) -> str:
    return check_prefix(f"{key}/") if key else ""


class EmptyDirectories:
    """Directories made by `mkdir` that may still be empty. Only this process knows them; no backend does.

    All filesystems of one configuration share them.
    """

    _by_config: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, config: str) -> None:
        self._paths = self._by_config.setdefault(config, set())

    def add(self, path: str) -> None:
        """Add a directory, and those above it."""
        self._paths.update([path, *paths.parents(path)])

    def remove(self, path: str) -> None:
        """Remove a directory and those below it."""
        self._paths.difference_update([path, *self.below(path)])

    def move(self, path: str, target: str) -> None:
        """Move a directory and those below it."""
        for each in [path, *self.below(path)]:
            if each in self._paths:
                self.add(target + each.removeprefix(path))
        self.remove(path)

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def below(self, path: str) -> list[str]:
        """Return the directories below a path."""
        return sorted(each for each in self._paths.copy() if each.startswith(f"{path}/"))
