"""The methods that look at names: `info`, `ls`, `find`, `walk`, `du` and those that rest on them."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from glob import has_magic
from typing import Any

from fsspec.utils import tokenize

from fsbackup.errors import FsbackupError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.filesystem import directories, paths
from fsbackup.filesystem.base import FileSystemBase, on_io_loop
from fsbackup.filesystem.directories import Info, directory_info
from fsbackup.filesystem.undone import encrypted, plain_info
from fsbackup.filesystem.versions import Version


class MetadataMethods(FileSystemBase):
    """Names and their infos. Absence is reported only when proven; otherwise an `OSError` names the replicas.

    The size of an encrypted object is that of its plaintext in `info`, where it can be read. In listings (`ls` of
    a directory, `find`, `du`) it is that of what is stored, which these show without a request for each object.
    """

    @on_io_loop
    async def _info(self, path: str, **kwargs: Any) -> Info:  # noqa: ARG002 - options of other filesystems
        return await self._find_info(paths.strip(path), now=True)

    async def _find_info(self, path: str, *, now: bool) -> Info:
        """Return the info of a path as it is `now`, or was a moment ago."""
        name, key = paths.split(path)
        if not key:
            if name:
                _ = self.sets[name]
            return directory_info(path)
        try:
            return self._described(await self.version(path, now=now))
        except ObjectNotFoundError:
            key = paths.check_read_key(key)
            if path in self.empty_directories or await directories.is_directory(self.sets[name], key):
                return directory_info(path)
            raise
        except NoHealthyReplicaError:
            # Without all replicas the absence of the file is unproven, but one file below it proves a directory.
            if await self._has_listed_files(name, key):
                return directory_info(path)
            raise

    def _described(self, version: Version) -> Info:
        """Return the info of a file; of an encrypted one that of what is read, where it can be read."""
        recorded = encrypted(version)
        if recorded is not None and recorded.size is not None and self.undo.can_decrypt:
            return plain_info(version, recorded.size)
        return version.info()

    async def _has_listed_files(self, name: str, key: str) -> bool:
        try:
            return await directories.is_directory(self.sets[name], key)
        except FsbackupError:
            return False

    @on_io_loop
    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        path = paths.strip(path)
        name, key = paths.split(path)
        found = (
            await self._list_directory(path, name, key)
            if name
            else {each: directory_info(each) for each in self.sets.names()}
        )
        return [found[each] for each in sorted(found)] if detail else sorted(found)

    async def _list_directory(self, path: str, name: str, key: str) -> dict[str, Info]:
        below = self.empty_directories.below(path)
        empty = {each: directory_info(each) for each in below if "/" not in each[len(path) + 1 :]}
        try:
            if key:
                paths.check_read_key(key)
            return {**empty, **await directories.list_directory(self.sets[name], name, key)}
        except (ObjectNotFoundError, NoHealthyReplicaError):
            if path in self.empty_directories:
                return empty
            try:
                return {path: self._described(await self.version(path, now=True))}
            except (ObjectNotFoundError, NoHealthyReplicaError):
                pass
            raise

    @on_io_loop
    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> list[str] | dict[str, Info]:
        detail = kwargs.pop("detail", False)
        path = paths.strip(path)
        if maxdepth is not None or not path:
            # Level by level: fsspec's own `find` calls `ls`, which skips what lies deeper.
            kwargs.pop("prefix", None)
            found = await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        else:
            found = await self._find_all(path, withdirs=withdirs)
        return {each: found[each] for each in sorted(found)} if detail else sorted(found)

    async def _find_all(self, path: str, *, withdirs: bool) -> dict[str, Info]:
        name, key = paths.split(path)
        found: dict[str, Info] = {}
        async for info in directories.iter_files(self.sets[name], name, key):
            found[info["name"]] = info
        if withdirs:
            parents = {parent for file in found for parent in paths.parents(file)}
            parents.update(self.empty_directories.below(path))
            inside = {each: directory_info(each) for each in parents if each.startswith(f"{path}/")}
            found = {**inside, **found}
            if found or path in self.empty_directories or not key:
                found[path] = directory_info(path)
        if not found and await self._isfile(path):
            found[path] = await self._info(path)
        return found

    async def _walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        # fsspec's default ignores every OSError, so that an outage looks like an empty directory.
        async for each in super()._walk(path, maxdepth, topdown, on_error or _raise_unless_absent, **kwargs):
            yield each

    async def _du(self, path: str, total: bool = True, maxdepth: int | None = None, **kwargs: Any) -> Any:
        found = await self._find(path, maxdepth=maxdepth, detail=True, **kwargs)
        assert isinstance(found, dict)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    async def _expand_path(
        self,
        path: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        assume_literal: bool = False,
    ) -> list[str]:
        """Return the files and directories that paths and patterns mean; the name of a file is no pattern."""
        given = paths.strip_all([path] if isinstance(path, str) else path)
        names = set() if assume_literal else {each for each in given if await self._is_literal(each)}
        rest = [each for each in given if each not in names]
        found = await super()._expand_path(rest, recursive, maxdepth, assume_literal) if rest else []
        return sorted({*names, *found})

    async def _is_literal(self, path: Any) -> bool:
        """Tell whether a path that looks like a pattern is the name of a file: that is then what is meant."""
        if not isinstance(path, str) or not has_magic(path) or has_magic(paths.split(path)[0]):
            return False
        try:
            await self._find_file(path)
        except ObjectNotFoundError:
            return False
        return True

    @on_io_loop
    async def _find_file(self, path: str) -> Version:
        return await self.version(path)

    @on_io_loop
    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return await self._type(path, **kwargs) is not None

    async def _isfile(self, path: str) -> bool:
        return await self._type(path) == "file"

    async def _isdir(self, path: str) -> bool:
        return await self._type(path) == "directory"

    @on_io_loop
    async def _type(self, path: str, **kwargs: Any) -> str | None:  # noqa: ARG002 - as for `_info`
        """Return "file" or "directory", None when the path is proven absent."""
        try:
            return str((await self._find_info(paths.strip(path), now=False))["type"])
        except FileNotFoundError:
            return None

    @on_io_loop
    async def _modified(self, path: str) -> datetime:
        """Return when this version was created, in UTC; for an object without a manifest when it was stored.

        Raises
        ------
        IsADirectoryError
            For a directory, as s3fs does: nothing is stored for it that would have a time.
        """
        info = await self._info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory has no time", f"{paths.PROTOCOL}://{info['name']}")
        return datetime.fromtimestamp(info.get("mtime", 0.0), UTC)

    @on_io_loop
    async def _created(self, path: str) -> datetime:
        """Return `modified`: a version never changes."""
        return await self._modified(path)

    @on_io_loop
    async def _ukey(self, path: str) -> str:
        """Return the SHA-256 of the content; a hash of the info for an object without a manifest.

        For an encrypted object that is read as its plaintext it is another one than for what is stored: a cache
        must not take the one for the other.
        """
        info = await self._info(path)
        if info.get("stored_sha256"):
            return str(tokenize("plaintext", info["stored_sha256"]))
        return str(info.get("sha256") or tokenize(info["name"], info["size"], info.get("mtime")))

    @on_io_loop
    async def _checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(await self._ukey(path), 16)


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
