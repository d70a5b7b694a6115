"""The objects of any fsspec filesystem."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn, TypeVar

from fsbackup.errors import AccessDeniedError, ConfigError
from fsbackup.stores.base import DEFAULT_TIMEOUT, BackendInfo, ObjectStat, ObjectStore, Orphan, WritePlan
from fsbackup.stores.generic import address, files
from fsbackup.stores.generic.connection import SessionPool
from fsbackup.stores.generic.writer import Confirm, GenericWriter
from fsbackup.stores.local.orphans import EVERYWHERE, WHAT, check_temp
from fsbackup.stores.names import NameFilter, to_bytes, to_name

T = TypeVar("T")


class GenericStore(ObjectStore):
    """Objects as files below an fsspec URL. See `GenericStorage` for what that means by protocol.

    Parameters
    ----------
    url
        The base directory, ``protocol://host/path``.
    options
        What the filesystem is opened with (user, password, key file, ...). None of it is shown anywhere.
    name
        The backend's name; default: the protocol.
    confirm
        ``"checksum"``: each object is read back and compared before it gets its name. ``"size"``: only its
        size is compared.
    timeout
        Longest silence in seconds.

    Raises
    ------
    ConfigError
        For a URL that cannot be used, naming the package when one is missing. Nothing is connected yet.
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
        self._connection = SessionPool(self._address, self.name, timeout)
        self._filesystem: Any = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("a generic backend holds credentials and is not pickled; make it again where it is used")

    @property
    def location(self) -> str:
        return self._address.location

    @property
    def filesystem(self) -> Any:
        """A filesystem of the caller's own: the one that object I/O uses belongs to its thread."""
        if self._filesystem is None:
            self._filesystem = self._address.open()
        return self._filesystem

    async def stat(self, name: str) -> ObjectStat | None:
        path = self._path(name)
        found = await self._call("stat", name, lambda filesystem: files.file_info(filesystem, path))
        return None if found is None else ObjectStat(name, int(found["size"]), files.modified(found))

    async def read(
        self,
        name: str,
        start: int = 0,
        end: int | None = None,
        *,
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002 - a range comes in one go
    ) -> bytes:
        path = self._path(name)
        return await self._call("read", name, lambda filesystem: files.read(filesystem, path, start, end))

    def writer(self, name: str, plan: WritePlan, on_progress: Callable[[int], None]) -> GenericWriter:
        return GenericWriter(self._connection, self._path(name), name, plan, on_progress, self._confirm)

    async def remove(self, name: str) -> None:
        path = self._path(name)
        await self._call("remove", name, lambda filesystem: files.remove(filesystem, path))

    async def list(self, prefix: str = "", start_after: str = "") -> AsyncIterator[ObjectStat]:
        window = NameFilter.for_listing(prefix, start_after)
        if any(segment in (b"", b".", b"..") for segment in window.deepest_directory.split(b"/")[:-1]):
            return  # no object has such a name
        async for item in self._walk(window, window.deepest_directory):
            yield item

    async def _walk(self, window: NameFilter, directory: bytes) -> AsyncIterator[ObjectStat]:
        for name, found in sorted((await self._entries(window, directory)).items()):
            if name.endswith(b"/"):
                async for item in self._walk(window, name):
                    yield item
            else:
                yield ObjectStat(to_name(name), int(found["size"]), files.modified(found))

    async def _entries(self, window: NameFilter, directory: bytes) -> dict[bytes, Mapping[str, Any]]:
        """Return what the window wants of one directory, by name; a directory's ends with a slash, as it sorts."""
        path = self._address.root + "/" + to_name(directory)
        found = await self._call(
            "list", to_name(directory), lambda filesystem: files.entries(filesystem, path.rstrip("/"))
        )
        wanted = {}
        for each in found:
            name = directory + to_bytes(str(each["name"]).rstrip("/").rpartition("/")[2])
            if each["type"] == "directory":
                if window.may_contain(name + b"/"):
                    wanted[name + b"/"] = each
            elif window.matches(name) and (target := await self._target(name, each)) is not None:
                wanted[name] = target
        return wanted

    async def _target(self, name: bytes, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return what an entry stands for: links show what they point to, and nothing else is an object."""
        if entry["type"] == "file":
            return entry
        path = self._address.root + "/" + to_name(name)
        found = await self._call("list", to_name(name), lambda filesystem: files.info(filesystem, path))
        if found is not None and found["type"] == "directory":
            raise AccessDeniedError(
                "it is a link to a directory, and links are not followed",
                backend=self.name,
                operation="list",
                key=to_name(name),
                hint="put the directory itself there",
            )
        return found if found is not None and found["type"] == "file" else None

    async def orphans(self, older_than: float) -> AsyncIterator[Orphan]:
        async for item in self._walk(EVERYWHERE, b""):
            if (leftover := orphan_of(item, older_than)) is not None:
                yield leftover

    async def delete_orphan(self, orphan: Orphan) -> None:
        await self.remove(check_temp(orphan))

    async def info(self, probe: str | None = None) -> BackendInfo:  # noqa: ARG002 - nothing is tried
        return SERVER_INFO

    async def close(self) -> None:
        await self._connection.close()

    def _path(self, name: str) -> str:
        if any(segment in ("", ".", "..") or "\0" in segment for segment in name.split("/")):
            raise ValueError(f"{name!r} is not the name of an object")
        return f"{self._address.root}/{name}"

    async def _call(self, operation: str, name: str, call: Callable[[Any], T]) -> T:
        return await self._connection.call(operation, name, call)


SERVER_INFO = BackendInfo(
    # Asked for first, then renamed over: in between, another writer may get the name.
    conditional_create=False,
    access="check the address, the user and the password or key, and who may write to the directory on the server",
    unknown={
        "keeps_versions": "the protocol does not say what the server keeps of removed files",
        "free": "the protocol does not say",
    },
)


def orphan_of(item: ObjectStat, older_than: float) -> Orphan | None:
    """Return what a temp file is when it has not changed for `older_than` seconds; None too when nobody knows."""
    if item.modified is None or item.modified > time.time() - older_than:
        return None
    return Orphan(item.name, item.modified, item.size, WHAT)
