"""Download into a file: whole and proven under its name, or not there at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from fsbackup import events
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.download import ObjectReader, locate, newer_version, same_beginning
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import DownloadReport
from fsbackup.errors import IntegrityError, NoHealthyReplicaError
from fsbackup.keys import TEMP_SUFFIX
from fsbackup.record import Manifest
from fsbackup.sizing import MIB
from fsbackup.stores.base import DEFAULT_MODE, file_mode

OnProgress = Callable[[int, int], None]

#: How often a reader follows replacements that overtake it.
_MAX_VERSIONS = 3
#: Bytes after which what is written so far is flushed.
_FLUSH = 64 * MIB


async def download(
    targets: ReplicaSet,
    key: str,
    target: Path,
    *,
    progress: OnProgress | None = None,
    keep: bool = False,
    breaker: CircuitBreaker | None = None,
) -> DownloadReport:
    """Read `key` into the file `target`, replacing it only when everything has arrived and is proven.

    `progress` hears (bytes so far, all bytes). Modification time and permission bits are those of the file that
    was backed up, where the manifest knows them; setuid, setgid and sticky are never restored. With `keep`, a
    file that has exactly these bytes is left as it is. `outages` is what is known of the stores by those who
    restore many.

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError, IntegrityError
        As `fsbackup.engine.download` says; `target` is then as it was.
    OSError
        When `target` cannot be written.
    """
    started = asyncio.get_running_loop().time()
    clock = asyncio.get_running_loop().time
    reading = await _locate(targets, key, breaker)
    if keep and reading.manifest is not None and await asyncio.to_thread(_is_there, target, reading.manifest):
        return _report(reading, reading.manifest.sha256, clock() - started, already=True)
    async with _temp_beside(target) as file:
        copy = _ToFile(targets, reading, file, progress)
        sha256 = await copy.run()
        await asyncio.to_thread(_finish, file, copy.reading.manifest)
        await asyncio.to_thread(_place, Path(file.name), target)
    report = _report(copy.reading, sha256, clock() - started)
    for name in report.replicas:
        events.log_outcome("download", name, key, size=report.size, seconds=report.seconds)
    return report


async def copy_to(targets: ReplicaSet, key: str, out: BinaryIO) -> DownloadReport:
    """Write `key` to the stream `out`, each block proven before it is written; an error may come half-way."""
    started = asyncio.get_running_loop().time()
    copy = _ToStream(targets, await _locate(targets, key), out)
    sha256 = await copy.run()
    await asyncio.to_thread(out.flush)
    return _report(copy.reading, sha256, asyncio.get_running_loop().time() - started)


async def read_range(targets: ReplicaSet, key: str, start: int, end: int | None) -> bytes:
    """Return bytes of `key` from `start` up to `end` (None: to the last), proven, all of one version."""
    reading = await _locate(targets, key)
    for _ in range(_MAX_VERSIONS):
        try:
            return await reading.range(start, reading.size if end is None else end)
        except (IntegrityError, NoHealthyReplicaError):
            after = await newer_version(targets.stores, reading)
            if after is None:
                raise
            reading = after
    return await reading.range(start, reading.size if end is None else end)


async def _locate(targets: ReplicaSet, key: str, outages: CircuitBreaker | None = None) -> ObjectReader:
    return await locate(targets.stores, key, memory=targets.memory, stall=targets.stall, breaker=outages)


class _Copy(ABC):
    """Copies one object, and follows it when it is replaced (or found half replaced) in the meantime.

    Each block is proven by the manifest, whose own checksum binds the blocks to the whole: that is not hashed
    again.
    """

    def __init__(self, targets: ReplicaSet, reading: ObjectReader) -> None:
        self.reading = reading
        self._stores = targets.stores

    async def run(self) -> str:
        """Return the SHA-256 of what was copied; `reading` is the version that it is."""
        for _ in range(_MAX_VERSIONS):
            try:
                return await self._copy()
            except (IntegrityError, NoHealthyReplicaError) as error:
                after = await newer_version(self._stores, self.reading)
                if after is None or not await self._turn_to(after):
                    raise error
                self.reading = after
        return await self._copy()

    @abstractmethod
    async def _copy(self) -> str:
        """Copy what is left to copy of `reading`, and return the SHA-256 of the whole."""

    @abstractmethod
    async def _turn_to(self, after: ObjectReader) -> bool:
        """Prepare to go on with another version; false where it is too late for that."""


class _ToStream(_Copy):
    """Writes the bytes in their order."""

    def __init__(self, targets: ReplicaSet, reading: ObjectReader, out: BinaryIO) -> None:
        super().__init__(targets, reading)
        self._out = out
        self._done = 0
        #: Only of what no manifest proves.
        self._whole = hashlib.sha256()

    async def _copy(self) -> str:
        async with contextlib.aclosing(self.reading.ranges(self._done, ordered=True)) as runs:
            async for _, pieces in runs:
                await asyncio.to_thread(self._append, pieces)
        manifest = self.reading.manifest
        return manifest.sha256 if manifest else self._whole.hexdigest()

    def _append(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if self.reading.manifest is None:
                self._whole.update(piece)
            self._out.write(piece)
            self._done += len(piece)

    async def _turn_to(self, after: ObjectReader) -> bool:
        return same_beginning(self.reading, after, self._done)


class _ToFile(_Copy):
    """Writes the bytes as they come, each at its place."""

    def __init__(
        self, targets: ReplicaSet, reading: ObjectReader, file: BinaryIO, progress: OnProgress | None
    ) -> None:
        super().__init__(targets, reading)
        self._file = file
        self._progress = progress
        self._written = 0
        self._flushing: asyncio.Task[None] | None = None

    async def _copy(self) -> str:
        try:
            async with contextlib.aclosing(self.reading.ranges()) as runs:
                async for offset, pieces in runs:
                    self._flush_behind(await asyncio.to_thread(self._write, offset, pieces))
                    if self._progress:
                        self._progress(self._written, self.reading.size)
        finally:
            if self._flushing is not None:
                await asyncio.wait({self._flushing})  # it still needs the file
        if self._flushing is not None:
            self._flushing.result()
        manifest = self.reading.manifest
        return manifest.sha256 if manifest else await asyncio.to_thread(self._hash)

    def _flush_behind(self, length: int) -> None:
        """Have the disk begin while bytes still come, so that the last flush, which counts, is a short one."""
        if self._flushing is not None and self._flushing.done():
            self._flushing.result()  # the system tells of a failed write only once
            self._flushing = None
        if self._flushing is None and self._written % _FLUSH < length:
            self._flushing = asyncio.create_task(asyncio.to_thread(os.fdatasync, self._file.fileno()))

    def _write(self, offset: int, pieces: list[bytes]) -> int:
        start = offset
        for piece in pieces:
            view = memoryview(piece)
            while view:
                count = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[count:], offset + count
        self._written += offset - start
        return offset - start

    def _hash(self) -> str:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def _turn_to(self, after: ObjectReader) -> bool:  # noqa: ARG002 - it begins anew with whatever it is
        await asyncio.to_thread(self._file.truncate, 0)
        self._written = 0
        return True


@contextlib.asynccontextmanager
async def _temp_beside(target: Path) -> AsyncIterator[BinaryIO]:
    """Open a private temp file in the target's directory; whatever is left of it at the end is removed."""
    path = target.parent / f".{secrets.token_hex(8)}{TEMP_SUFFIX}"
    file = await asyncio.to_thread(_create, path)
    try:
        yield file
    finally:
        path.unlink(missing_ok=True)
        # A close that fails on a full disk has nothing left to lose: what counts was flushed and synced before.
        with contextlib.suppress(OSError):
            file.close()


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, DEFAULT_MODE)
    return open(path, "r+b", opener=lambda *_: descriptor)


def _finish(file: BinaryIO, manifest: Manifest | None) -> None:
    """Make the content durable and give it the mode and time of the file it was."""
    file.flush()
    source = manifest.source if manifest else None
    os.fchmod(file.fileno(), file_mode(source.mode if source else None))
    if source and source.mtime is not None:
        stamp = round(source.mtime * 1e9)
        os.utime(file.fileno(), ns=(stamp, stamp))
    os.fsync(file.fileno())


def _place(temp: Path, target: Path) -> None:
    temp.replace(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_there(target: Path, manifest: Manifest) -> bool:
    """Tell whether a file has the manifest's bytes."""
    try:
        with target.open("rb") as file:
            if os.fstat(file.fileno()).st_size != manifest.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == manifest.sha256
    except OSError:
        return False


def _report(reading: ObjectReader, sha256: str, seconds: float, *, already: bool = False) -> DownloadReport:
    return DownloadReport(
        key=reading.key,
        size=reading.size,
        sha256=sha256,
        verified=reading.manifest is not None,
        replicas=dict(reading.bytes_read),
        failed={name: str(error) for name, error in reading.failed.items()},
        seconds=seconds,
        already=already,
    )
