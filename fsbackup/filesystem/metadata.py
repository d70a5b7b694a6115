"""What is there: info, ls, find, walk, du and the questions that rest on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from fsspec.utils import tokenize

from fsbackup.errors import FsbackupError, NoHealthyReplicaError, ObjectNotFoundError
from fsbackup.filesystem import directories, paths
from fsbackup.filesystem.core import FileSystemBase, on_io
from fsbackup.filesystem.directories import Info


class MetadataMethods(FileSystemBase):
    """The methods that only look. "Not found" is said when it is proven; else an `OSError` says who failed."""

    @on_io
    async def _info(self, path: str, **kwargs: Any) -> Info:  # noqa: ARG002 - options of other filesystems
        path = paths.strip(path)
        name, key = paths.split(path)
        if not key:
            if name:
                _ = self.sets[name]
            return directories.directory(path)
        try:
            return (await self.version(path)).info()
        except ObjectNotFoundError:
            if path in self.made or await directories.is_directory(self.sets[name], paths.readable_key(key)):
                return directories.directory(path)
            raise
        except NoHealthyReplicaError:
            # With a replica away nobody can say that there is no such file; a directory shows itself.
            if await self._shows_directory(name, key):
                return directories.directory(path)
            raise

    async def _shows_directory(self, name: str, key: str) -> bool:
        try:
            return await directories.is_directory(self.sets[name], key)
        except FsbackupError:
            return False

    @on_io
    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:  # noqa: ARG002
        path = paths.strip(path)
        name, key = paths.split(path)
        found = (
            await self._children(path, name, key)
            if name
            else {each: directories.directory(each) for each in self.sets.names()}
        )
        return [found[each] for each in sorted(found)] if detail else sorted(found)

    async def _children(self, path: str, name: str, key: str) -> dict[str, Info]:
        made = {
            each: directories.directory(each) for each in self.made.below(path) if "/" not in each[len(path) + 1 :]
        }
        try:
            if key:
                paths.readable_key(key)
            return {**made, **await directories.children(self.sets[name], name, key)}
        except (ObjectNotFoundError, NoHealthyReplicaError):
            if path in self.made:
                return made
            try:
                return {path: (await self.version(path)).info()}
            except ObjectNotFoundError:
                pass
            raise

    @on_io
    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> list[str] | dict[str, Info]:
        detail = kwargs.pop("detail", False)
        path = paths.strip(path)
        if maxdepth is not None or not path:
            # Level by level, which passes by what lies deeper.
            kwargs.pop("prefix", None)
            found = await super()._find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        else:
            found = await self._find_all(path, withdirs=withdirs)
        return {each: found[each] for each in sorted(found)} if detail else sorted(found)

    async def _find_all(self, path: str, *, withdirs: bool) -> dict[str, Info]:
        name, key = paths.split(path)
        found: dict[str, Info] = {}
        async for info in directories.everything(self.sets[name], name, key):
            found[info["name"]] = info
        if withdirs:
            above = {each for every in found for each in paths.parents(every)} | set(self.made.below(path))
            inside = {each: directories.directory(each) for each in above if each.startswith(f"{path}/")}
            found = {**inside, **found}
            if found or path in self.made or not key:
                found[path] = directories.directory(path)
        if not found and await self._isfile(path):
            found[path] = await self._info(path)
        return found

    async def _walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        # By default an outage would look like an empty directory.
        async for each in super()._walk(path, maxdepth, topdown, on_error or _only_absence, **kwargs):
            yield each

    async def _du(self, path: str, total: bool = True, maxdepth: int | None = None, **kwargs: Any) -> Any:
        found = await self._find(path, maxdepth=maxdepth, detail=True, **kwargs)
        assert isinstance(found, dict)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return await self._type(path, **kwargs) is not None

    async def _isfile(self, path: str) -> bool:
        return await self._type(path) == "file"

    async def _isdir(self, path: str) -> bool:
        return await self._type(path) == "directory"

    async def _type(self, path: str, **kwargs: Any) -> str | None:
        try:
            return str((await self._info(path, **kwargs))["type"])
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> datetime:
        """Return when this version was made, in UTC; for an object without a manifest when it was stored."""
        return datetime.fromtimestamp(self.info(path)["mtime"] or 0.0, UTC)

    def created(self, path: str) -> datetime:
        """Return `modified`: a version never changes."""
        return self.modified(path)

    def ukey(self, path: str) -> str:
        """Return the SHA-256 of the content; for an object without a manifest a hash of what is known of it."""
        info = self.info(path)
        return str(info.get("sha256") or tokenize(info["name"], info["size"], info["mtime"]))

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(self.ukey(path), 16)


def _only_absence(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
