"""Storing, copying and removing: to all replicas of a set at once, and never more than was named."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from contextlib import aclosing
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from fsbackup.engine import delete
from fsbackup.engine.source import Source, StreamSource, open_source
from fsbackup.engine.upload import UploadProgress, upload
from fsbackup.errors import FsbackupError, NoHealthyReplicaError
from fsbackup.filesystem import directories, paths
from fsbackup.filesystem.core import FileSystemBase, on_io
from fsbackup.filesystem.pipe import Pipe
from fsbackup.keys import check_key
from fsbackup.loop import Call, run
from fsbackup.replication.progress import CallbackProgress

#: Objects removed side by side.
_REMOVALS = 16


class WriteMethods(FileSystemBase):
    """The methods that change something. An object is replaced whole, on enough replicas, or stays as it was."""

    @on_io
    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:  # noqa: ARG002
        source = StreamSource(io.BytesIO(value), paths.strip(path), allow_empty=True)
        await self._store(path, source, len(value), create_only=mode == "create")

    @on_io
    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        mode: str = "overwrite",
        callback: Callback = DEFAULT_CALLBACK,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        if await asyncio.to_thread(os.path.isdir, lpath):
            await self._makedirs(rpath, exist_ok=True)
            return
        source = await asyncio.to_thread(open_source, lpath)
        try:
            progress = CallbackProgress(callback, str(lpath), paths.strip(rpath))
            await self._store(rpath, source, source.size, create_only=mode == "create", progress=progress)
        finally:
            source.close()

    @on_io
    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:  # noqa: ARG002
        if await self._isdir(path1):
            await self._makedirs(path2, exist_ok=True)
            return
        version = await self.version(paths.strip(path1))
        pipe = Pipe()
        source = StreamSource(pipe.as_stream(), version.path, allow_empty=True)
        storing = asyncio.create_task(self._store(path2, source, version.size))
        # Also when it fails: whoever still writes must hear of it instead of waiting for room.
        storing.add_done_callback(lambda _: pipe.fail(OSError("the copy has ended")))
        try:
            async with aclosing(version.reader.pieces()) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(pipe.write, piece)
            pipe.end()
        except BaseException as error:
            if not storing.done():
                pipe.fail(error if isinstance(error, Exception) else OSError("the copy was cancelled"))
                await asyncio.wait({storing})
                raise
        await storing

    def start_upload(self, path: str, pipe: Pipe, *, create_only: bool) -> Call[None]:
        """Begin to store what comes through `pipe`."""
        source = StreamSource(pipe.as_stream(), paths.strip(path), allow_empty=True)
        return Call(self._store(path, source, None, create_only=create_only))

    async def _store(
        self,
        path: str,
        source: Source,
        size: int | None,
        *,
        create_only: bool = False,
        progress: UploadProgress | None = None,
    ) -> None:
        """Store a source; an open file, of no known `size`, must not wait for others that may never end."""
        path = paths.strip(path)
        name, key = paths.writable(path)
        opened = self.sets[name]
        if create_only and await self._exists(path):
            raise paths.taken(path)
        async with opened.budget.reserve(size or 0):
            report = await upload(opened.targets, key, source, overwrite=not create_only, progress=progress)
        self.versions.forget(path)
        if not report:
            raise report.failure()

    @on_io
    async def _rm_file(self, path: str, **kwargs: Any) -> None:  # noqa: ARG002
        path = paths.strip(path)
        name, key = paths.writable(path)
        report = await delete.delete(self.sets[name].targets, key)
        self.versions.forget(path)
        if not report:
            raise report.failure()

    @on_io
    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,  # noqa: ARG002
        maxdepth: int | None = None,
        missing_ok: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Remove exactly what is named: a ``*`` is a letter like any other here."""
        named = [paths.strip(each) for each in ([path] if isinstance(path, str) else path)]
        todo: dict[str, None] = {}
        for each in named:
            kind = await self._type(each)
            if kind is None and not missing_ok:
                raise FileNotFoundError(errno.ENOENT, "there is no such object or directory", each)
            below = await self._removed_with(each, kind, recursive=recursive, maxdepth=maxdepth)
            todo.update(dict.fromkeys(below))
        gate = asyncio.Semaphore(_REMOVALS)

        async def one(each: str) -> BaseException | None:
            async with gate:
                try:
                    await self._rm_file(each)
                except Exception as error:  # noqa: BLE001 - the others go on, and then it is raised
                    return error
            return None

        errors = await asyncio.gather(*(one(each) for each in todo))
        for each in named:
            self.made.remove(each)
        for error in errors:
            if error is not None:
                raise error

    async def _removed_with(
        self, path: str, kind: str | None, *, recursive: bool, maxdepth: int | None
    ) -> list[str]:
        """Return the files that go when `path` is removed."""
        name, key = paths.split(path)
        if not key:
            raise PermissionError(
                errno.EPERM, "a whole replication set is never removed", f"{paths.PROTOCOL}://{path}"
            )
        if kind != "directory":
            return [path] if kind else []
        if not recursive:
            raise IsADirectoryError(errno.EISDIR, "is a directory; remove it with recursive=True", path)
        errors: dict[str, FsbackupError] = {}
        found = [info["name"] async for info in directories.everything(self.sets[name], name, key, errors)]
        if errors:
            reasons = "; ".join(str(error) for error in errors.values())
            raise NoHealthyReplicaError(
                f"nothing is removed, since not all replicas could be listed: {reasons}", operation="rm", key=key
            )
        depth = path.count("/")
        return [each for each in found if maxdepth is None or each.count("/") - depth <= maxdepth]

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove exactly what is named, and with `recursive` what lies below it; never more by a pattern.

        Raises
        ------
        FileNotFoundError
            When it is not there, and that is proven.
        NoHealthyReplicaError
            When a directory cannot be listed on every replica: then nothing of it is removed.
        PermissionError
            For a whole replication set.
        """
        run(self._rm(path, recursive=recursive, maxdepth=maxdepth, missing_ok=False))

    @on_io
    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        await self._makedirs(path, exist_ok=False)

    @on_io
    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = paths.strip(path)
        name, key = paths.split(path)
        if key:
            check_key(key)
        kind = await self._type(path) if not exist_ok else None
        if kind is not None:
            raise FileExistsError(errno.EEXIST, f"there is such a {kind} already", path)
        _ = self.sets[name]
        self.made.add(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        path = paths.strip(path)
        if self.ls(path, detail=False):
            raise OSError(errno.ENOTEMPTY, "the directory is not empty", path)
        self.made.remove(path)
