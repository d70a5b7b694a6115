"""The methods that store and remove: on all replicas of a set at once, and nothing but the named objects."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, closing, nullcontext
from glob import has_magic
from typing import Any, TypeVar

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from fsbackup.engine import delete
from fsbackup.engine.open_source import open_source
from fsbackup.engine.results import Report
from fsbackup.engine.source import BytesSource, Source
from fsbackup.engine.stream_source import StreamSource
from fsbackup.engine.upload import UploadProgress, upload
from fsbackup.errors import (
    DegradedWriteWarning,
    FsbackupError,
    NoHealthyReplicaError,
    combined_hint,
    summary,
)
from fsbackup.filesystem import directories, paths
from fsbackup.filesystem.base import FileSystemBase, on_io_loop
from fsbackup.filesystem.pipe import Pipe
from fsbackup.filesystem.sets import OpenSet
from fsbackup.keys import check_key
from fsbackup.loop import Call, run
from fsbackup.replication.progress import CallbackProgress

T = TypeVar("T")

#: Objects that one call moves or removes at a time.
_MAX_OBJECTS = 16


class WriteMethods(FileSystemBase):
    """Changes. An object is replaced whole, on enough replicas, or stays as it was."""

    @on_io_loop
    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:  # noqa: ARG002
        data = value if isinstance(value, bytes) else bytes(memoryview(value))
        await self._store(path, BytesSource(data, paths.strip(path)), create_only=mode == "create")

    @on_io_loop
    async def _touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Store an empty object; with ``truncate=False`` only where there is none."""
        path = paths.strip(path)
        if not truncate and await self._exists(path):
            raise io.UnsupportedOperation(
                f"touch: {paths.PROTOCOL}://{path} exists, and the time of what is stored cannot be changed"
            )
        await self._store(path, BytesSource(b"", path))

    async def _put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(rpath, str) and (local := await asyncio.to_thread(_literal_file, lpath)) is not None:
            into = rpath.endswith("/") or await self._isdir(rpath)
            lpath, rpath = [local], [f"{paths.strip(rpath)}/{os.path.basename(local)}" if into else rpath]
        await super()._put(lpath, rpath, *args, **kwargs)

    @on_io_loop
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
        progress = CallbackProgress(callback, str(lpath), paths.strip(rpath))
        source = await asyncio.to_thread(open_source, lpath)
        await self._store(rpath, source, create_only=mode == "create", progress=progress)

    def start_upload(self, opened: OpenSet, path: str, pipe: Pipe, *, create_only: bool) -> Call[None]:
        """Start to store the content of `pipe` in the set that the file was opened in."""
        source = StreamSource(pipe.as_stream(), paths.strip(path), allow_empty=True)
        return Call(self._write_file(opened, path, source, create_only=create_only))

    @on_io_loop
    async def _write_file(self, opened: OpenSet, path: str, source: Source, *, create_only: bool) -> None:
        await self._store(path, source, create_only=create_only, opened=opened)

    async def _store(
        self,
        path: str,
        source: Source,
        *,
        size: int | None = None,
        create_only: bool = False,
        progress: UploadProgress | None = None,
        opened: OpenSet | None = None,
    ) -> None:
        """Store a source, once its bytes fit into the memory that uploads share, and close it.

        Parameters
        ----------
        size
            Of a stream that surely ends. Any other stream takes no part in that: open files may each wait for the
            next to be closed, and what waits for all the memory would wait for them.
        opened
            The set that a file was opened in, where it is not of the configuration any more.
        """
        path, wanted = paths.strip(path), size or source.size
        with closing(source):
            name, key = paths.split_for_write(path)
            opened = opened or self.sets[name]
            if create_only and await self._exists(path):
                raise paths.exists_error(path)
            async with opened.budget.reserve(wanted) if wanted else nullcontext():
                report = await upload(
                    opened.replica_set, key, source, overwrite=not create_only, progress=progress
                )
        self.stored(path, report)
        if not report:
            raise report.failure()

    def stored(self, path: str, report: Report) -> None:
        """Take note of how an upload went, and warn where it left replicas out."""
        self.versions.discard(path)
        self.last_report = report
        _warn_degraded(path, report)

    @on_io_loop
    async def _rm_file(self, path: str, **kwargs: Any) -> None:  # noqa: ARG002
        await self._delete(paths.strip(path))

    async def _delete(self, path: str) -> bool:
        """Delete one object; return whether there was any."""
        name, key = paths.split_for_write(path)
        report = self.last_report = await delete.delete(self.sets[name].replica_set, key)
        self.versions.discard(path)
        if not report:
            raise report.failure()
        _warn_degraded(path, report)
        return report.generation is not None

    @on_io_loop
    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,  # noqa: ARG002
        maxdepth: int | None = None,
        missing_ok: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Remove exactly the named paths: a ``*`` has no special meaning."""
        named = [paths.strip(each) for each in ([path] if isinstance(path, str) else path)]
        if len(named) == 1 and not recursive and paths.split(named[0])[1] and await self._delete(named[0]):
            self.empty_directories.remove(named[0])
            return
        files: dict[str, None] = {}
        for each in named:
            kind = await self._type(each)
            if kind is None and not missing_ok:
                raise FileNotFoundError(errno.ENOENT, "no such object or directory", each)
            found = await self._select_files(each, kind, "remove", recursive=recursive, maxdepth=maxdepth)
            files.update(dict.fromkeys(found))
        try:
            await self._remove_files(files)
        finally:
            for each in named:
                self.empty_directories.remove(each)

    async def _remove_files(self, files: Iterable[str]) -> None:
        """Remove files, those of one set together; when all have been tried, raise the first error."""
        keys: dict[str, dict[str, str]] = {}
        for path in files:
            name, key = paths.split_for_write(path)
            keys.setdefault(name, {})[key] = path
        failed: list[Report] = []
        for name, named in keys.items():
            async with aclosing(delete.delete_many(self.sets[name].replica_set, named)) as reports:
                async for report in reports:
                    self.versions.discard(named[report.key])
                    self.last_report = report
                    failed += [] if report else [report]
                    _warn_degraded(named[report.key], report)
        if failed:
            raise failed[0].failure()

    async def _select_files(
        self, path: str, kind: str | None, operation: str, *, recursive: bool, maxdepth: int | None
    ) -> list[str]:
        """Return the files that an `operation` ("remove" or "move") on `path` concerns.

        Raises
        ------
        PermissionError
            For a whole replication set.
        IsADirectoryError
            For a directory without `recursive`.
        NoHealthyReplicaError
            When too few replicas could be listed: files that only the others have would be left behind.
        """
        name, key = paths.split(path)
        if not key:
            raise PermissionError(
                errno.EPERM,
                f"fsbackup does not {operation} a whole replication set; name what is in it",
                f"{paths.PROTOCOL}://{path}",
            )
        if kind != "directory":
            return [path] if kind else []
        if not recursive:
            raise IsADirectoryError(errno.EISDIR, f"is a directory; {operation} it with recursive=True", path)
        errors: dict[str, FsbackupError] = {}
        opened = self.sets[name]
        found = [info["name"] async for info in directories.iter_files(opened, name, key, errors)]
        if directories.must_insist(opened, errors):
            errors.clear()
            files = directories.iter_files(opened, name, key, errors, insist=True)
            found = [info["name"] async for info in files]
        if not directories.is_complete(opened, errors):
            raise NoHealthyReplicaError(
                f"cannot {operation} the directory: too few replicas could be listed: {summary(errors)}",
                operation=operation,
                key=key,
                hint=combined_hint(errors, "try again when they answer"),
            )
        depth = path.count("/")
        return [each for each in found if maxdepth is None or each.count("/") - depth <= maxdepth]

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove exactly the named paths, with `recursive` also directories; a ``*`` has no special meaning.

        Raises
        ------
        FileNotFoundError
            When a path is proven absent.
        NoHealthyReplicaError
            When a directory could be listed on too few replicas: then nothing is removed.
        PermissionError
            For a whole replication set.
        """
        run(self._rm(path, recursive=recursive, maxdepth=maxdepth, missing_ok=False))

    @on_io_loop
    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        await self._makedirs(path, exist_ok=False)

    @on_io_loop
    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        path = paths.strip(path)
        name, key = paths.split(path)
        if key:
            check_key(key)
        kind = await self._type(path) if not exist_ok else None
        if kind is not None:
            raise FileExistsError(errno.EEXIST, f"{kind} already exists", path)
        _ = self.sets[name]
        self.empty_directories.add(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        path = paths.strip(path)
        if self.ls(path, detail=False):
            raise OSError(errno.ENOTEMPTY, "the directory is not empty (rm with recursive=True removes it)", path)
        self.empty_directories.remove(path)


def _literal_file(path: Any) -> str | None:
    """Return the path of a file whose name looks like a pattern: it is what is meant; None for anything else."""
    if not isinstance(path, str | os.PathLike) or not has_magic(os.fspath(path)):
        return None
    found = os.path.expanduser(os.fspath(path))
    return found if os.path.isfile(found) else None


def _warn_degraded(path: str, report: Report) -> None:
    """Warn of what was done on enough replicas, but not on all."""
    if report.status != "degraded":
        return
    confirmed = ", ".join(name for name, each in report.replicas.items() if each.ok)
    done, rest = ("stored", "adds") if report.operation == "upload" else ("deleted", "deletes")
    where = f"{paths.PROTOCOL}://{path} is {done} on {confirmed} only"
    message = f"{where}: {summary(report.errors)}; `fsbackup repair` {rest} the rest"
    warnings.warn(DegradedWriteWarning(message), stacklevel=2)


async def run_concurrently(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Call `work` for each item, some at a time; when all have ended, raise the first error."""
    slots = asyncio.Semaphore(_MAX_OBJECTS)

    async def work_on(item: T) -> None:
        async with slots:
            await work(item)

    for error in await asyncio.gather(*map(work_on, items), return_exceptions=True):
        if error is not None:
            raise error
