"""Files opened to append: the object is read whole, and replaced by itself and what was added.

Only where the set allows it (``append: true``), because each append stores the whole object again on every
replica. `open_to_append` reads the newest version, proven as the newest; the file then goes the way of any other
one (`write_file`), with the old bytes first. Its upload replaces that version and no other (`engine.upload`,
`replaces`): when another writer stored one meanwhile, `close` raises `ConflictError` and theirs stays. A crash
leaves the old object or the new one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from fsspec import AbstractFileSystem

from fsbackup.engine.results import Report
from fsbackup.engine.stream_source import StreamSource
from fsbackup.engine.upload import upload
from fsbackup.errors import (
    ConflictError,
    FsbackupError,
    IntegrityError,
    ObjectLostError,
    ObjectNotFoundError,
    summary,
    unproven_newest,
)
from fsbackup.filesystem import paths
from fsbackup.filesystem.base import on_io_loop
from fsbackup.filesystem.pipe import Pipe
from fsbackup.filesystem.sets import OpenSet
from fsbackup.filesystem.versions import Version
from fsbackup.filesystem.write_file import WriteFile
from fsbackup.filesystem.writing import WriteMethods
from fsbackup.loop import Call, run
from fsbackup.record import Manifest
from fsbackup.sizing import MIB

#: Bytes of the largest object that an append makes.
MAX_SIZE = 64 * MIB


class AppendFile(WriteFile):
    """As `WriteFile`, with what is there already at its beginning; positions count from that.

    Parameters
    ----------
    old
        The bytes that are there.
    """

    def __init__(
        self,
        fs: AbstractFileSystem,
        path: str,
        old: bytes,
        start_upload: Callable[[Pipe], Call[None]],
        **options: Any,
    ) -> None:
        super().__init__(fs, path, "ab", start_upload, **options)
        self._old: bytes | None = old
        self.loc = len(old)

    def write(self, data: Any) -> int:
        """Add bytes; `UnsupportedOperation` where the object would become larger than `MAX_SIZE`."""
        if self.loc + memoryview(data).nbytes > MAX_SIZE:
            raise _too_large(self.full_name)
        return int(super().write(data))

    def _initiate_upload(self) -> None:
        old, self._old = self._old, None
        if self.loc == len(old or b"") > 0:
            return  # nothing was added
        super()._initiate_upload()
        self._pipe.write(old or b"")


class AppendMethods(WriteMethods):
    """Appends."""

    def open_to_append(self, path: str, **options: Any) -> AppendFile:
        """Return a file that adds to what is there, or creates the object where nothing is; see `fs.open`."""
        path = paths.strip(path)
        paths.split_for_write(path)
        opened, version, old = run(self._append_file(path))
        replaces = version.reader.manifest if version is not None else None
        return AppendFile(self, path, old, partial(self._start_append, opened, path, replaces), **options)

    def _start_append(self, opened: OpenSet, path: str, replaces: Manifest | None, pipe: Pipe) -> Call[None]:
        return Call(self._append(opened, path, replaces, StreamSource(pipe.as_stream(), path, allow_empty=True)))

    @on_io_loop
    async def _append(self, opened: OpenSet, path: str, replaces: Manifest | None, source: StreamSource) -> None:
        """Store a source that was made from the version `replaces`, None when there was none."""
        key = paths.split(path)[1]
        with closing(source):
            report = await upload(
                opened.replica_set, key, source, overwrite=replaces is not None, replaces=replaces
            )
        self.stored(path, report)
        if not report:
            raise _failure(report)

    @on_io_loop
    async def _append_file(self, path: str) -> tuple[OpenSet, Version | None, bytes]:
        """Return the set, the version to append to, None when there is none, and its bytes."""
        name, key = paths.split(path)
        opened = self.sets[name]
        if not opened.storage.append:
            raise io.UnsupportedOperation(
                f"{paths.PROTOCOL}://{path} cannot be opened to append: an object is replaced whole; to have that "
                f"done (up to {MAX_SIZE // MIB} MiB), set `append: true` on the replication set {name!r}"
            )
        self.versions.discard(path)
        try:
            version = await self.version(path)
        except ObjectNotFoundError as error:
            if isinstance(error, ObjectLostError):
                raise
            if await self._isdir(path):
                raise IsADirectoryError(f"{paths.PROTOCOL}://{path} is a directory") from None
            return opened, None, b""
        _check(version, key)
        return opened, version, await version.reader.range(0, version.size)


def _check(version: Version, key: str) -> None:
    manifest = version.reader.manifest
    if not version.reader.proven:
        raise unproven_newest(version.reader.log.failed, "append", key)
    if manifest is None:
        raise IntegrityError(
            "it has no manifest, so that nothing proves what would be appended to",
            operation="append",
            key=key,
            hint="`fsbackup repair --adopt` writes one",
        )
    if manifest.stages:
        raise io.UnsupportedOperation(
            f"{paths.PROTOCOL}://{version.path} is stored compressed or encrypted: store a new object instead"
        )
    if version.size > MAX_SIZE:
        raise _too_large(f"{paths.PROTOCOL}://{version.path}")


def _failure(report: Report) -> FsbackupError:
    """Return the error of an append: that another writer was first says more than who did not answer."""
    conflicts = {name: each for name, each in report.errors.items() if isinstance(each, ConflictError)}
    if not conflicts:
        return report.failure()
    others = {name: each for name, each in report.errors.items() if name not in conflicts}
    more = f"; {summary(others)}" if others else ""
    return ConflictError(
        f"another writer changed it while it was open ({', '.join(conflicts)}){more}; nothing is appended",
        operation="append",
        key=report.key,
        hint="open it again, and append again",
    )


def _too_large(name: str) -> io.UnsupportedOperation:
    return io.UnsupportedOperation(
        f"{name}: appending stores the whole object again, and is for objects up to {MAX_SIZE // MIB} MiB: "
        "write a new object instead"
    )
