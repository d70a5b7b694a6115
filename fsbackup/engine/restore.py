"""Downloads: into a file, into a stream, and of one range.

A file appears under its name whole and verified, or stays as it was: its bytes go into a temp file beside it (each
block verified before it is written), which is flushed, gets mode and modification time, and is renamed. A crash
leaves at most the temp file. `target.Target` is the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from fsbackup import events
from fsbackup.aio import shield
from fsbackup.engine.beginning import LENGTH
from fsbackup.engine.download import Listed, ObjectReader, locate, newer_version, same_beginning
from fsbackup.engine.pursuit import Pursuit
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.results import DownloadReport
from fsbackup.engine.target import Target
from fsbackup.engine.unstaging import Unstager
from fsbackup.errors import ConfigError, IntegrityError, NoHealthyReplicaError
from fsbackup.record import Manifest
from fsbackup.sizing import MIB
from fsbackup.stages import Undo
from fsbackup.stages.plaintext import Recorded
from fsbackup.stores.local.directory import SafeDirectory
from fsbackup.stores.page_cache import write_at
from fsbackup.threads import in_daemon_thread

#: Called with (bytes so far, bytes of the object).
OnProgress = Callable[[int, int], None]
#: Returns the file for a target and the stages that are undone, if any.
Rename = Callable[[Path, Recorded | None], Path]

#: Bytes written between two flushes.
_FLUSH = 64 * MIB


async def download(
    targets: ReplicaSet,
    key: str,
    target: Path,
    *,
    below: SafeDirectory | None = None,
    owner: bool = False,
    on_progress: OnProgress | None = None,
    keep_identical: bool = False,
    undo: Undo | None = None,
    rename: Rename | None = None,
    listed: Listed = MappingProxyType({}),
) -> DownloadReport:
    """Read `key` into the file `target`, which is replaced only when all bytes have arrived and are verified.

    Parameters
    ----------
    targets, key, target
        What to read, and to where. Missing directories above `target` are created, for the owner alone where the
        manifest does not say more. Modification time and permission bits are those of the file that was backed
        up, where the manifest has them; setuid, setgid and sticky bits are never restored.
    below
        The directory that `target` is relative to, with the last segments of the key: no link below it is
        followed.
    owner
        Give the file the owner and group of the one that was backed up, where the manifest has them; for root.
    on_progress
        Called on the I/O loop as bytes are written.
    keep_identical
        Leave a file as it is that already has exactly these bytes.
    undo
        Undoes the stages of the object; None: the file gets the bytes as they are stored.
    rename
        Returns the file to use in place of `target`, given what is known of the stages that are undone.
    listed
        What listings have just shown of it (see `locate`).

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError, IntegrityError
        As `fsbackup.engine.download` says; `target` is then as it was.
    AccessDeniedError, ConflictError
        When a link, a file or a name that differs only by case is in the way.
    OSError
        When `target` cannot be written, or is a directory, FIFO or device.
    ConfigError
        When the stages cannot be undone for want of an identity or a package.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    found = Path(below.path if below else "", target)
    may_stay = keep_identical and await asyncio.to_thread(os.path.lexists, found)
    reader = await locate(targets, key, at_once=not may_stay, listed=listed)
    manifest = reader.manifest
    recorded = None if undo is None else Recorded.of(manifest)
    target = target if rename is None else rename(target, recorded)
    file = Target(key, target, below, owner=owner)
    if keep_identical and manifest is not None and await asyncio.to_thread(file.has_content, manifest, recorded):
        return _report(reader, manifest.sha256, clock() - started, recorded, target, already=True)
    async with _opened(file, manifest) as temp:
        copy: _Copy = (
            _CopyToFile(targets, reader, temp, on_progress)
            if undo is None or recorded is None
            else _UnstageToFile(targets, reader, temp, undo, on_progress)
        )
        sha256 = await copy.run()
        await asyncio.to_thread(file.commit, copy.reader.manifest)
    undone = None if undo is None else Recorded.of(copy.reader.manifest)
    report = _report(copy.reader, sha256, clock() - started, undone, target)
    for name in report.replicas:
        events.log_outcome("download", name, key, size=report.size, seconds=report.seconds)
    return report


def without_suffix(target: Path, recorded: Recorded | None) -> Path:
    """Return `target` without the suffixes of the stages that are undone."""
    name = target.name.removesuffix(recorded.suffix) if recorded is not None else ""
    return target.with_name(name) if name else target


async def copy_to(targets: ReplicaSet, key: str, out: BinaryIO, *, undo: Undo | None = None) -> DownloadReport:
    """Write `key` to the stream `out`, each block verified before it is written; an error may come half-way.

    With `undo` the stream gets what the object was before its stages.
    """
    clock = asyncio.get_running_loop().time
    started = clock()
    reader = await locate(targets, key, at_once=True)
    is_staged = undo is not None and Recorded.of(reader.manifest) is not None
    copy: _Copy = (
        _UnstageToStream(targets, reader, out, undo)
        if undo is not None and is_staged
        else _CopyToStream(targets, reader, out)
    )
    sha256 = await copy.run()
    await asyncio.to_thread(out.flush)
    undone = None if undo is None else Recorded.of(copy.reader.manifest)
    return _report(copy.reader, sha256, clock() - started, undone)


async def unstage(targets: ReplicaSet, reader: ObjectReader, out: BinaryIO, undo: Undo) -> ObjectReader:
    """Write to `out` what the version of `reader` was before its stages; an error may come half-way.

    Returns that of the version written: the newer one, where the object was replaced meanwhile.
    """
    copy = _UnstageToStream(targets, reader, out, undo)
    await copy.run()
    return copy.reader


def begins_with(start: int | None) -> bool:
    """Return whether what is read from `start` on, as in a slice, may be among the first bytes of an object."""
    return start is None or 0 <= start < LENGTH


async def read_range(targets: ReplicaSet, key: str, start: int, end: int | None) -> bytes:
    """Return the bytes of `key` from `start` up to `end` (None: the end), verified, all of one version."""
    reader = await locate(targets, key, at_once=begins_with(start))
    pursuit = Pursuit(targets)
    while True:
        try:
            return await reader.range(start, reader.plan.size if end is None else end)
        except (IntegrityError, NoHealthyReplicaError) as error:
            reader = pursuit.follow(reader, await newer_version(targets, reader), error)


class _Copy(ABC):
    """Copies one object; goes on with the newer version when it is replaced meanwhile.

    Each block is verified by the manifest, whose own checksum binds the block hashes to that of the whole: the
    whole is not hashed again.
    """

    def __init__(self, targets: ReplicaSet, reader: ObjectReader) -> None:
        self.reader = reader
        self._targets = targets

    async def run(self) -> str:
        """Return the SHA-256 of the bytes copied; `reader` is then that of the version copied."""
        pursuit = Pursuit(self._targets)
        while True:
            try:
                return await self._copy()
            except (IntegrityError, NoHealthyReplicaError) as error:
                newer = pursuit.follow(self.reader, await newer_version(self._targets, self.reader), error)
                if not await self._switch_to(newer):
                    raise self._overtaken() from error
                self.reader = newer

    def _overtaken(self) -> NoHealthyReplicaError:
        return NoHealthyReplicaError(
            "it was replaced while it was read, after bytes of the old version had been written",
            operation="download",
            key=self.reader.plan.key,
            hint="nothing is damaged: read it again",
        )

    @abstractmethod
    async def _copy(self) -> str:
        """Copy the rest of the object, and return the SHA-256 of the whole."""

    @abstractmethod
    async def _switch_to(self, newer: ObjectReader) -> bool:
        """Prepare to go on with another version; False when bytes already written make that impossible."""


class _CopyToStream(_Copy):
    """Writes the bytes in order."""

    def __init__(self, targets: ReplicaSet, reader: ObjectReader, out: BinaryIO) -> None:
        super().__init__(targets, reader)
        self._out = out
        self._written = 0
        #: Of an object without a manifest; else the manifest has the hash.
        self._sha256 = hashlib.sha256()

    async def _copy(self) -> str:
        arriving = self.reader.ranges(self._written, ordered=True, reuse_memory=True)
        async with contextlib.aclosing(arriving) as ranges:
            async for _, pieces in ranges:
                await in_daemon_thread(partial(self._write, pieces))
        manifest = self.reader.manifest
        return manifest.sha256 if manifest else self._sha256.hexdigest()

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if self.reader.manifest is None:
                self._sha256.update(piece)
            self._out.write(bytes(piece))  # of its own: not every stream is done with it when it returns
            self._written += len(piece)

    async def _switch_to(self, newer: ObjectReader) -> bool:
        return same_beginning(self.reader, newer, self._written)


class _UnstageToStream(_CopyToStream):
    """Undoes the stages of the bytes in order, and writes what comes of it."""

    def __init__(
        self,
        targets: ReplicaSet,
        reader: ObjectReader,
        out: BinaryIO,
        undo: Undo,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(targets, reader, out)
        self._undo = undo
        self._on_progress = on_progress
        self._unstager: Unstager | None = None

    async def run(self) -> str:
        try:
            sha256 = await super().run()
            await in_daemon_thread(self._finish)
        except (ConfigError, IntegrityError) as error:
            error.operation, error.key = error.operation or "download", error.key or self.reader.plan.key
            raise
        finally:
            await self._stop()
        return sha256

    async def _stop(self) -> None:
        """End the stages; a stream that takes nothing is not waited for."""
        if self._unstager is not None:
            self._unstager.abandon()

    def _finish(self) -> None:
        self._opened().finish()

    def _opened(self) -> Unstager:
        if self._unstager is None:
            assert self.reader.manifest is not None
            self._unstager = Unstager(self._undo, self.reader.manifest, self._out)
        return self._unstager

    def _write(self, pieces: list[bytes]) -> None:
        unstager = self._opened()
        for piece in pieces:
            unstager.write(piece)
            self._written += len(piece)
        if self._on_progress:
            self._on_progress(self._written, self.reader.plan.size)


class _UnstageToFile(_UnstageToStream):
    """The same into a temp file, which is written from its start again for a newer version."""

    async def _stop(self) -> None:
        """End the stages, and wait for them: they write to a file that is closed next."""
        if self._unstager is not None:
            await shield(asyncio.to_thread(self._unstager.abort))

    async def _switch_to(self, newer: ObjectReader) -> bool:  # noqa: ARG002 - any version starts from an empty file
        await self._stop()
        await asyncio.to_thread(self._empty)
        return True

    def _empty(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self._unstager, self._written = None, 0


class _CopyToFile(_Copy):
    """Writes the bytes as they arrive, each at its offset."""

    def __init__(
        self, targets: ReplicaSet, reader: ObjectReader, file: BinaryIO, on_progress: OnProgress | None
    ) -> None:
        super().__init__(targets, reader)
        self._file = file
        self._on_progress = on_progress
        self._written = 0
        self._flushing: asyncio.Task[None] | None = None

    async def _copy(self) -> str:
        try:
            async with contextlib.aclosing(self.reader.ranges(reuse_memory=True)) as ranges:
                async for offset, pieces in ranges:
                    # Closed under the thread, the descriptor could be another file's by its next write.
                    self._flush_behind(await shield(asyncio.to_thread(self._write, offset, pieces)))
                    if self._on_progress:
                        self._on_progress(self._written, self.reader.plan.size)
        finally:
            if self._flushing is not None:
                await asyncio.wait({self._flushing})  # it still needs the file
        if self._flushing is not None:
            self._flushing.result()
        manifest = self.reader.manifest
        return manifest.sha256 if manifest else await asyncio.to_thread(self._hash)

    def _flush_behind(self, length: int) -> None:
        """Flush to the disk while more bytes arrive, so that the last flush is a short one.

        `length` is the number of bytes just written.
        """
        if self._flushing is not None and self._flushing.done():
            self._flushing.result()  # the system reports a failed write only once
            self._flushing = None
        if self._flushing is None and self._written % _FLUSH < length:
            self._flushing = asyncio.create_task(asyncio.to_thread(os.fdatasync, self._file.fileno()))

    def _write(self, offset: int, pieces: list[bytes]) -> int:
        """Write the pieces from `offset` on, and return the number of bytes."""
        start = offset
        for piece in pieces:
            offset += write_at(self._file.fileno(), piece, offset)
        self._written += offset - start
        return offset - start

    def _hash(self) -> str:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    async def _switch_to(self, newer: ObjectReader) -> bool:  # noqa: ARG002 - any version starts from an empty file
        await shield(asyncio.to_thread(self._file.truncate, 0))
        self._written = 0
        return True


@contextlib.asynccontextmanager
async def _opened(target: Target, manifest: Manifest | None) -> AsyncIterator[BinaryIO]:
    """Open the target's temp file; it is removed at the end unless it was renamed."""
    opening = asyncio.ensure_future(asyncio.to_thread(target.open, manifest))
    try:
        yield await asyncio.shield(opening)
    finally:
        await asyncio.wait({opening})  # a cancelled caller does not stop the thread that creates the file
        if opening.exception() is None:
            target.close()


def _report(
    reader: ObjectReader,
    sha256: str,
    seconds: float,
    undone: Recorded | None,
    target: Path | None = None,
    *,
    already: bool = False,
) -> DownloadReport:
    return DownloadReport(
        key=reader.plan.key,
        size=reader.plan.size,
        sha256=sha256,
        verified=reader.manifest is not None,
        replicas=dict(reader.log.bytes_read),
        failed={name: str(error) for name, error in reader.log.failed.items()},
        seconds=seconds,
        already=already,
        proven=reader.proven,
        plain_size=undone.size if undone else None,
        target=target,
    )
