"""`GenericStore`: objects as files in any fsspec filesystem."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn, TypeVar

from fsbackup.errors import AccessDeniedError, ConfigError
from fsbackup.keys import MANIFESTS, META_PREFIX
from fsbackup.stores.base import (
    DEFAULT_TIMEOUT,
    BackendInfo,
    ObjectStat,
    ObjectStore,
    Orphan,
    PassedOver,
    WritePlan,
)
from fsbackup.stores.generic import address, files
from fsbackup.stores.generic.connection import SessionPool
from fsbackup.stores.generic.writer import Confirm, GenericWriter
from fsbackup.stores.names import (
    ALL_TEMP_FILES,
    TEMP_FILE,
    NameFilter,
    check_temp,
    may_be_stranger,
    split_name,
    to_bytes,
    to_name,
)

T = TypeVar("T")

_INFO = BackendInfo(
    access="check the address, the user, the password or key, and the permissions of the directory on the server",
    unknown={
        "keeps_versions": "the protocol does not report whether the server keeps removed files",
        "free": "the protocol does not report it",
    },
)


class GenericStore(ObjectStore):
    """Objects as files below an fsspec URL. See `GenericStorage` for what each protocol guarantees.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``.
    options
        Arguments of the filesystem (user, password, key file, ...). They are never shown.
    name
        The backend's name; default: the protocol.
    confirm
        ``"checksum"``: each object is read back and compared before it gets its name. ``"size"``: only its size is
        compared.
    timeout
        Longest time in seconds without a byte moved.

    Raises
    ------
    ConfigError
        When the URL cannot be used; names a missing package. Does not connect yet.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
        confirm: Confirm = "checksum",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        if confirm not in ("checksum", "size"):
            raise ConfigError(f"confirm must be 'checksum' or 'size', not {confirm!r}")
        self._address = address.parse(url, options)
        super().__init__(name or self._address.protocol, timeout=timeout)
        self._confirm: Confirm = confirm
        self._pool = SessionPool(self._address, self.name, timeout)
        self._filesystem: Any = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a generic backend holds credentials and cannot be pickled; create it again where it is used"
        )

    @property
    def location(self) -> str:
        return self._address.location

    @property
    def filesystem(self) -> Any:
        """A separate filesystem for the caller: the one for object I/O belongs to its thread."""
        if self._filesystem is None:
            self._filesystem = self._address.open()
        return self._filesystem

    async def stat(self, name: str) -> ObjectStat | None:
        path = self._path(name)
        found = await self._call("stat", name, lambda filesystem: _stat(filesystem, path, name))
        return None if found is None else ObjectStat(name, int(found["size"]), files.modified(found))

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002 - a range arrives in one call
    ) -> bytes:
        path = self._path(name)
        return await self._call("read", name, lambda filesystem: _read(filesystem, path, name, start, end))

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> GenericWriter:
        return GenericWriter(self._pool, self._path(name), name, plan, on_progress, self._confirm)

    async def remove(self, name: str) -> None:
        path = self._path(name)
        await self._call("remove", name, lambda filesystem: files.remove(filesystem, path, name))

    def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        return self.list_counting(prefix, start_after, PassedOver())

    async def list_counting(
        self, prefix: str, start_after: str, passed_over: PassedOver
    ) -> AsyncIterator[ObjectStat]:
        names = NameFilter.for_listing(prefix, start_after)
        if not names.is_empty:
            async for item in self._walk(names, names.deepest_directory, passed_over):
                yield item

    async def _walk(
        self, names: NameFilter, directory: bytes, passed_over: PassedOver
    ) -> AsyncIterator[ObjectStat]:
        for name, found in sorted((await self._entries(names, directory)).items()):
            if await self._is_stranger(directory, name):
                passed_over.add(to_name(name))
            elif name.endswith(b"/"):
                async for item in self._walk(names, name, passed_over):
                    yield item
            else:
                yield ObjectStat(to_name(name), int(found["size"]), files.modified(found))

    async def _is_stranger(self, directory: bytes, name: bytes) -> bool:
        """Tell whether a file or directory is another program's, and nothing of that name was backed up."""
        if not may_be_stranger(directory, name[len(directory) :]):
            return False
        if name.startswith(META_PREFIX.encode()):
            return True
        manifest = f"{self._address.root}/{MANIFESTS}{to_name(name).rstrip('/')}"
        return await self._call("list", to_name(name), lambda filesystem: files.info(filesystem, manifest)) is None

    async def _entries(self, names: NameFilter, directory: bytes) -> dict[bytes, Mapping[str, Any]]:
        """Return the selected entries of one directory by name; a directory's name ends with a slash."""
        path = self._address.root + "/" + to_name(directory)
        found = await self._call(
            "list", to_name(directory), lambda filesystem: files.entries(filesystem, path.rstrip("/"))
        )
        selected = {}
        for each in found:
            name = directory + to_bytes(str(each["name"]).rstrip("/").rpartition("/")[2])
            if each["type"] == "directory":
                if names.may_contain(name + b"/"):
                    selected[name + b"/"] = each
            elif names.matches(name) and (target := await self._target(name, each)) is not None:
                selected[name] = target
        return selected

    async def _target(self, name: bytes, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the entry of a file, or of the file a link points to; None for anything else.

        Raises
        ------
        AccessDeniedError
            When a link points to a directory.
        """
        if entry["type"] == "file":
            return entry
        path = self._address.root + "/" + to_name(name)
        found = await self._call("list", to_name(name), lambda filesystem: files.info(filesystem, path))
        if found is not None and found["type"] == "directory":
            raise AccessDeniedError(
                "the entry is a link to a directory, and links are not followed",
                backend=self.name,
                operation="list",
                key=to_name(name),
                hint="replace the link by the directory itself",
            )
        return found if found is not None and found["type"] == "file" else None

    async def orphans(self, older_than: float) -> AsyncIterator[Orphan]:
        before = time.time() - older_than
        async for item in self._walk(ALL_TEMP_FILES, b"", PassedOver()):
            if item.modified is not None and item.modified <= before:
                yield Orphan(item.name, item.modified, item.size, TEMP_FILE)

    async def delete_orphan(self, orphan: Orphan) -> None:
        await self.remove(check_temp(orphan))

    async def info(self) -> BackendInfo:
        return _INFO

    async def close(self) -> None:
        await self._pool.close()

    def _path(self, name: str) -> str:
        split_name(name)  # raises ValueError for a name that no object can have
        return f"{self._address.root}/{name}"

    async def _call(self, operation: str, name: str, call: Callable[[Any], T]) -> T:
        return await self._pool.call(operation, name, call)


def _stat(filesystem: Any, path: str, name: str) -> Mapping[str, Any] | None:
    found = files.file_info(filesystem, path)
    return None if found is None or files.is_of_another_case(filesystem, path, name) else found


def _read(filesystem: Any, path: str, name: str, start: int, end: int | None) -> bytes:
    data = files.read(filesystem, path, start, end)
    if files.is_of_another_case(filesystem, path, name):
        raise FileNotFoundError(path)
    return data
