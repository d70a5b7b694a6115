"""The methods that read: whole files, ranges of them, downloads, and files opened to read."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from fsbackup.engine import restore
from fsbackup.engine.download import newer_version
from fsbackup.engine.pursuit import Pursuit
from fsbackup.errors import IntegrityError, ObjectNotFoundError
from fsbackup.filesystem import blocks
from fsbackup.filesystem.base import FileSystemBase, on_io_loop
from fsbackup.filesystem.paths import PROTOCOL, check_read_key, split, strip
from fsbackup.filesystem.read_file import AsyncReadFile, ReadFile
from fsbackup.filesystem.sets import OpenSet
from fsbackup.filesystem.undone import StoredAsReadError, UndoEncrypted, UndoneFile, encrypted, undone
from fsbackup.filesystem.versions import UNREADABLE, Version
from fsbackup.loop import run
from fsbackup.replication.progress import on_progress
from fsbackup.stages import Undo
from fsbackup.stores.local.directory import make_path

#: Files that one call reads at a time.
_MAX_FILES = 16

#: One end of a range, as in a slice.
Bound = int | None


class ReadMethods(FileSystemBase):
    """Bytes. Where an object has a manifest, each byte is proven by it before it is returned."""

    @on_io_loop
    async def _cat_file(
        self,
        path: str,
        start: Bound = None,
        end: Bound = None,
        raw: bool = False,
        **kwargs: Any,  # noqa: ARG002
    ) -> bytes:
        [data] = await self._cat_file_ranges(strip(path), [(start, end)], raw=raw)
        return data

    @on_io_loop
    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Iterable[Bound] | Bound,
        ends: Iterable[Bound] | Bound,
        max_gap: int | None = None,  # noqa: ARG002 - adjacent blocks share a request in any case
        batch_size: int | None = None,  # noqa: ARG002
        on_error: str = "return",
        raw: bool = False,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[Any]:
        wanted = list(zip(paths, _per_path(starts, len(paths)), _per_path(ends, len(paths)), strict=True))
        indices: dict[str, list[int]] = defaultdict(list)
        for index, (path, _, _) in enumerate(wanted):
            indices[strip(path)].append(index)
        results: list[Any] = [None] * len(wanted)
        slots = asyncio.Semaphore(_MAX_FILES)

        async def read(path: str, indices: list[int]) -> None:
            async with slots:
                try:
                    of_file = [wanted[at][1:] for at in indices]
                    found: Sequence[Any] = await self._cat_file_ranges(path, of_file, raw=raw)
                except Exception as error:
                    if on_error == "raise":
                        raise
                    found = [error] * len(indices)
            for index, data in zip(indices, found, strict=True):
                results[index] = data

        async with asyncio.TaskGroup() as group:
            for path, of_path in indices.items():
                group.create_task(read(path, of_path))
        return results

    async def _cat_file_ranges(
        self, path: str, wanted: Sequence[tuple[Bound, Bound]], *, raw: bool
    ) -> list[bytes]:
        """Return ranges of one object, all of one version: when it is replaced meanwhile, of the newer one."""
        at_once = any(restore.begins_with(start) for start, _ in wanted)
        version = await self._version_to_read(path, check_data=False, at_once=at_once)
        if encrypted(version) and not raw:
            return await self._cat_undone(version, wanted)
        opened = self.sets[split(path)[0]]
        pursuit = Pursuit(opened.replica_set)
        while True:
            try:
                return await self._read(version, wanted)
            except UNREADABLE as error:
                newer = await self.versions.newer(opened, version)
                pursuit.follow(version.reader, newer.reader if newer else None, error)
                version = newer or version

    async def _cat_undone(self, version: Version, wanted: Sequence[tuple[Bound, Bound]]) -> list[bytes]:
        """Return ranges of an encrypted object's plaintext."""
        targets = self.sets[split(version.path)[0]].replica_set
        with UndoneFile(self, *await undone(targets, version, self.undo)) as plain:
            return await asyncio.to_thread(plain.ranges, [_resolve(plain.size, *each) for each in wanted])

    async def _read(
        self, version: Version, wanted: Sequence[tuple[Bound, Bound]], *, add_to_cache: bool = True
    ) -> list[bytes]:
        ranges = [_resolve(version.size, *each) for each in wanted]
        return await blocks.read(version.reader, ranges, self.block_cache, add_to_cache=add_to_cache)

    async def _version_to_read(
        self, path: str, *, check_data: bool = True, at_once: bool = True, now: bool = False
    ) -> Version:
        """Return the newest version; `IsADirectoryError` for a directory."""
        try:
            return await self.version(path, check_data=check_data, at_once=at_once, now=now)
        except ObjectNotFoundError:
            if await self._isdir(path):
                raise IsADirectoryError(f"{PROTOCOL}://{path} is a directory") from None
            raise

    async def _read_pinned(
        self, opened: OpenSet, version: Version, start: int, end: int, *, add_to_cache: bool
    ) -> bytes:
        """Return bytes of this version and no other; `IntegrityError` when it was replaced."""
        try:
            [data] = await self._read(version, [(start, end)], add_to_cache=add_to_cache)
        except UNREADABLE as error:
            if await newer_version(opened.replica_set, version.reader) is None:
                raise
            self.versions.discard(version.path)
            raise IntegrityError(
                "object was replaced while it was open", operation="read", key=version.path, hint="open it again"
            ) from error
        return data

    @on_io_loop
    async def _open_file(self, path: str) -> tuple[OpenSet, Version]:
        return self.sets[split(path)[0]], await self._version_to_read(path, now=True)

    @on_io_loop
    async def _read_file(self, opened: OpenSet, version: Version, start: int, end: int) -> bytes:
        return await self._read_pinned(opened, version, start, end, add_to_cache=True)

    async def open_to_read(self, path: str) -> AsyncReadFile:
        """Return a file opened to read, whose `read` is a coroutine; on any loop.

        Raises
        ------
        NotImplementedError
            For an encrypted object.
        """
        opened, version = await self._open_file(strip(path))
        if encrypted(version):
            raise NotImplementedError(
                f"open_async: {PROTOCOL}://{version.path} is encrypted, and decrypted as a whole: read it with "
                "`await fs._cat_file(path)`, or in a thread with `fs.open`"
            )
        return AsyncReadFile(self, version, partial(self._read_file, opened, version))

    def open_version(
        self, path: str, sha256: str | None, *, raw: bool = False, **options: Any
    ) -> ReadFile | UndoneFile:
        """Open a file to read; with `sha256`, only if that is still its content; with `raw` as it is stored."""
        opened, version = run(self._open_file(strip(path)))
        _check_content(version, sha256)
        if encrypted(version) and not raw:
            version, plaintext = run(undone(opened.replica_set, version, self.undo))
            _check_content(version, sha256)
            return UndoneFile(self, version, plaintext, **options)
        return ReadFile(self, version, partial(self._read_pinned, opened, version), **options)

    async def _get(self, rpath: Any, lpath: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(lpath, str) and await self._is_literal(source := self._strip_protocol(rpath)):
            rpath, lpath = [source], [await asyncio.to_thread(_target, lpath, source.rpartition("/")[2])]
        await super()._get(rpath, lpath, *args, **kwargs)

    @on_io_loop
    async def _get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        raw: bool = False,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Copy an object to a file or stream as `open` reads it, with `raw` as it is stored."""
        try:
            if raw:
                await self._fetch_to(rpath, lpath, callback, None)
            else:
                await self._fetch_as_read(rpath, lpath, callback)
        except ObjectNotFoundError:
            if not await self._isdir(rpath):
                raise
            await asyncio.to_thread(make_path, str(_expanded(lpath)))

    async def _fetch_as_read(self, rpath: str, lpath: Any, callback: Callback) -> None:
        # Only its record tells whether it is encrypted: to ask first would cost each object one request more.
        with suppress(StoredAsReadError):
            await self._fetch_to(rpath, lpath, callback, UndoEncrypted(self.undo))
            return
        await self._fetch_to(rpath, lpath, callback, None)

    async def _fetch_to(self, rpath: str, lpath: Any, callback: Callback, undo: Undo | None) -> None:
        name, key = split(strip(rpath))
        replicas = self.sets[name].replica_set
        if hasattr(lpath, "write"):
            await restore.copy_to(replicas, check_read_key(key), lpath, undo=undo)
        elif not await asyncio.to_thread(os.path.isdir, target := _expanded(lpath)):
            await restore.download(
                replicas, check_read_key(key), target, on_progress=on_progress(callback), undo=undo
            )


def _check_content(version: Version, sha256: str | None) -> None:
    """Raise unless this is the content that another process has opened; None: it has not."""
    manifest = version.reader.manifest
    if sha256 is not None and (manifest is None or manifest.sha256 != sha256):
        raise IntegrityError(
            "object was replaced after it was opened in another process",
            operation="read",
            key=version.path,
            hint="open it again there",
        )


def _expanded(path: str | os.PathLike[str]) -> Path:
    """Return a local path with ``~`` as the home directory."""
    return Path(os.path.expanduser(path))


def _target(path: str, name: str) -> str:
    """Return where a file `name` goes: into the directory `path`, or to that name."""
    path = os.path.expanduser(path)
    return os.path.join(path, name) if path.endswith(os.sep) or os.path.isdir(path) else path


def _per_path(bounds: Iterable[Bound] | Bound, count: int) -> list[Bound]:
    return list(bounds) if isinstance(bounds, Iterable) else [bounds] * count


def _resolve(size: int, start: Bound, end: Bound) -> blocks.Range:
    """Return a range with negative and missing bounds resolved as in a slice."""
    low, high, _ = slice(start, end).indices(size)
    return low, max(low, high)
