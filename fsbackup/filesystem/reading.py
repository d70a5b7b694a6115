"""Bytes: whole files, ranges of them, and open files."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from fsbackup.engine import restore
from fsbackup.errors import IntegrityError, ObjectNotFoundError
from fsbackup.filesystem import blocks
from fsbackup.filesystem.core import FileSystemBase, on_io
from fsbackup.filesystem.files import ReadFile
from fsbackup.filesystem.paths import PROTOCOL, readable_key, split, strip
from fsbackup.filesystem.versions import UNREADABLE, Version
from fsbackup.loop import run
from fsbackup.replication.progress import on_progress

#: How often a read follows an object that is replaced while it is read.
_MAX_VERSIONS = 3
#: Files read side by side by one call.
_FILES = 16

Edge = int | None


class ReadMethods(FileSystemBase):
    """The methods that read. Every byte is proven by its manifest, where there is one, before anybody gets it."""

    @on_io
    async def _cat_file(self, path: str, start: Edge = None, end: Edge = None, **kwargs: Any) -> bytes:  # noqa: ARG002
        [data] = await self._ranges(strip(path), [(start, end)])
        return data

    @on_io
    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Iterable[Edge] | Edge,
        ends: Iterable[Edge] | Edge,
        max_gap: int | None = None,  # noqa: ARG002 - neighbouring blocks come together in any case
        batch_size: int | None = None,  # noqa: ARG002
        on_error: str = "return",
        **kwargs: Any,  # noqa: ARG002
    ) -> list[Any]:
        wanted = list(zip(paths, _each(starts, len(paths)), _each(ends, len(paths)), strict=True))
        places: dict[str, list[int]] = defaultdict(list)
        for at, (path, _, _) in enumerate(wanted):
            places[strip(path)].append(at)
        out: list[Any] = [None] * len(wanted)
        gate = asyncio.Semaphore(_FILES)

        async def fill(path: str, which: list[int]) -> None:
            async with gate:
                try:
                    found: Sequence[Any] = await self._ranges(path, [wanted[at][1:] for at in which])
                except Exception as error:
                    if on_error == "raise":
                        raise
                    found = [error] * len(which)
            for at, data in zip(which, found, strict=True):
                out[at] = data

        async with asyncio.TaskGroup() as group:
            for path, which in places.items():
                group.create_task(fill(path, which))
        return out

    async def _ranges(self, path: str, wanted: Sequence[tuple[Edge, Edge]]) -> list[bytes]:
        """Return ranges of one object, all of one version."""
        opened = self.sets[split(path)[0]]
        version = await self._readable(path, unseen=True)
        for _ in range(_MAX_VERSIONS):
            try:
                return await self._of(version, wanted)
            except UNREADABLE:
                after = await self.versions.newer(opened, version)
                if after is None:
                    raise
                version = after
        return await self._of(version, wanted)

    async def _of(
        self, version: Version, wanted: Sequence[tuple[Edge, Edge]], *, keep: bool = True
    ) -> list[bytes]:
        ranges = [_within(version.size, *each) for each in wanted]
        return await blocks.read(version.reader, ranges, self.cache, keep=keep)

    async def _readable(self, path: str, *, unseen: bool = False) -> Version:
        """Return the version to read, perhaps `unseen`; a directory has none, and says so."""
        try:
            return await self.version(path, unseen=unseen)
        except ObjectNotFoundError:
            if await self._isdir(path):
                raise IsADirectoryError(f"{PROTOCOL}://{path} is a directory") from None
            raise

    @on_io
    async def _read_version(self, version: Version, start: int, end: int, *, keep: bool = True) -> bytes:
        """Return bytes of one version; when another has taken its place, say so."""
        try:
            [data] = await self._of(version, [(start, end)], keep=keep)
        except UNREADABLE as error:
            after = await self.versions.newer(self.sets[split(version.path)[0]], version)
            if after is None:
                raise
            raise IntegrityError(
                "it was replaced while it was open", operation="read", key=version.path, hint="open it again"
            ) from error
        return data

    def read_version(self, version: Version, start: int, end: int) -> bytes:
        """Return bytes of the version that a file was opened at."""
        return run(self._read_version(version, start, end))

    def start_reading(self, version: Version, start: int, end: int) -> Future[bytes]:
        """Begin to read bytes of the version that a file was opened at, which are about to go by."""
        reading = self._read_version(version, start, end, keep=False)
        return asyncio.run_coroutine_threadsafe(reading, self.loop)

    def open_version(self, path: str, sha256: str | None, **options: Any) -> ReadFile:
        """Open a file to read; with `sha256`, only if that is still its content."""
        version = run(self._readable(strip(path)))
        manifest = version.reader.manifest
        if sha256 is not None and (manifest is None or manifest.sha256 != sha256):
            raise IntegrityError(
                "it was replaced since it was opened elsewhere", operation="read", key=version.path
            )
        return ReadFile(self, version, **options)

    @on_io
    async def _get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        name, key = split(strip(rpath))
        targets = self.sets[name].targets
        try:
            if hasattr(lpath, "write"):
                await restore.copy_to(targets, readable_key(key), lpath)
            elif not await asyncio.to_thread(os.path.isdir, lpath):
                await restore.download(targets, readable_key(key), Path(lpath), on_progress=on_progress(callback))
        except ObjectNotFoundError:
            if not await self._isdir(rpath):
                raise
            await asyncio.to_thread(os.makedirs, lpath, exist_ok=True)


def _each(edges: Iterable[Edge] | Edge, count: int) -> list[Edge]:
    return list(edges) if isinstance(edges, Iterable) else [edges] * count


def _within(size: int, start: Edge, end: Edge) -> tuple[int, int]:
    """Return a range with its negative and missing edges resolved, as slices do."""
    low, high, _ = slice(start, end).indices(size)
    return low, max(low, high)
