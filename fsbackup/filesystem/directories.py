"""Directories, which no backend has: what keys have in common, and what was made here and is still empty."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from fsbackup.engine.download import absence_error
from fsbackup.errors import FsbackupError
from fsbackup.filesystem import paths
from fsbackup.filesystem.sets import OpenSet
from fsbackup.keys import check_prefix, encode_key
from fsbackup.replication.classify import ObjectStatus
from fsbackup.replication.ls import SetListing

Info = dict[str, Any]

#: Keys of one directory in a row after which the rest of it is passed by: as many as one LIST gives.
_PASS_BY = 1000
#: Sorts after every name below a directory.
_LAST = "\U0010ffff"


def directory(path: str) -> Info:
    """Return the info of a directory."""
    return {"name": path, "size": 0, "type": "directory", "mtime": None}


def file(name: str, entry: ObjectStatus) -> Info:
    """Return the info of a file, as far as listings tell."""
    there = [backend for backend, state in entry.states.items() if state == "present"]
    return {
        "name": f"{name}/{entry.key}",
        "size": entry.size,
        "type": "file",
        "mtime": entry.modified,
        "replicas": there,
    }


async def children(opened: OpenSet, name: str, key: str) -> dict[str, Info]:
    """Return what lies directly in a directory (`key`; empty: the whole set) by path: one LIST per replica and
    1,000 keys, or per directory that has more.

    Raises
    ------
    ObjectNotFoundError
        When nothing lies below, and every replica said so.
    NoHealthyReplicaError
        When nothing is listed, but not all replicas could be.
    """
    found: dict[str, Info] = {}
    errors: dict[str, FsbackupError] = {}
    after: str | None = ""
    while after is not None:
        listing = SetListing(opened.targets, _below(key), after, opened.breaker)
        after = await _collect(listing, name, _below(key), found)
        errors.update(listing.errors)
    if not found and key:
        raise _nothing(key, errors)
    return found


async def _collect(listing: SetListing, name: str, below: str, found: dict[str, Info]) -> str | None:
    """Add what is listed; return after which name to go on when a directory turned out to be large."""
    current, count = "", 0
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            if entry.is_deleted:
                continue
            head, slash, _ = entry.key.removeprefix(below).partition("/")
            if not slash:
                found[f"{name}/{entry.key}"] = file(name, entry)
                continue
            count = count + 1 if head == current else 1
            current = head
            path = f"{name}/{below}{head}"
            found.setdefault(path, directory(path))
            if count >= _PASS_BY:
                return f"{encode_key(below + head)}/{_LAST}"
    return None


async def everything(
    opened: OpenSet, name: str, key: str, errors: dict[str, FsbackupError] | None = None
) -> AsyncGenerator[Info, None]:
    """Yield every file below a directory, in the order of the keys.

    `errors` gets, at the end, why replicas could not be listed: what only they have is not among the files.

    Raises
    ------
    NoHealthyReplicaError
        At the end, when a replica could not be listed and the others have nothing.
    """
    listing = SetListing(opened.targets, _below(key), breaker=opened.breaker)
    found = False
    async with aclosing(listing.entries()) as entries:
        async for entry in entries:
            if not entry.is_deleted:
                found = True
                yield file(name, entry)
    if errors is not None:
        errors.update(listing.errors)
    if not found and listing.errors:
        raise _nothing(key, listing.errors)


async def is_directory(opened: OpenSet, key: str) -> bool:
    """Tell whether any object lies below `key`; the set itself is always a directory.

    Raises
    ------
    NoHealthyReplicaError
        When none is listed, but not all replicas could be.
    """
    if not key:
        return True
    async with aclosing(everything(opened, "", key)) as files:
        async for _ in files:
            return True
    return False


def _nothing(key: str, errors: dict[str, FsbackupError]) -> FsbackupError:
    """Return the error for a directory in which nothing was found."""
    why = "there is no such object or directory"
    return absence_error(key, errors, why, operation="list", answer="list nothing there")


def _below(key: str) -> str:
    return check_prefix(f"{key}/") if key else ""


class EmptyDirectories:
    """Directories that were made here and may still be empty. Only this process knows them; no backend does.

    All filesystems of one configuration know the same.
    """

    _of: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, config: str) -> None:
        self._paths = self._of.setdefault(config, set())

    def add(self, path: str) -> None:
        """Make a directory, and those above it."""
        self._paths.update([path, *paths.parents(path)])

    def remove(self, path: str) -> None:
        """Forget a directory and whatever was made in it."""
        self._paths.difference_update([path, *self.below(path)])

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def below(self, path: str) -> list[str]:
        """Return the directories made below a path."""
        return sorted(each for each in self._paths.copy() if each.startswith(f"{path}/"))
