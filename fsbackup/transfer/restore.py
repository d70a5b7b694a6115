"""Download into a file: whole and proven under its name, or not there at all."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from fsbackup import events
from fsbackup.errors import FsbackupError, IntegrityError, NoHealthyReplicaError
from fsbackup.keys import TEMP_SUFFIX
from fsbackup.manifest import Manifest
from fsbackup.transfer.download import Reading, locate, same_beginning, successor
from fsbackup.transfer.replicas import ReplicaSet
from fsbackup.transfer.results import DownloadReport

Hear = Callable[[int, int], None]

#: How often a reader follows replacements that overtake it.
_FOLLOWED = 3


async def download(targets: ReplicaSet, key: str, target: Path, *, progress: Hear | None = None) -> DownloadReport:
    """Read `key` into the file `target`, replacing it only when everything has arrived and is proven.

    `progress` hears (bytes so far, all bytes). Modification time and mode are those of the file that was
    backed up, where the manifest knows them.

    Raises
    ------
    ObjectNotFoundError, NoHealthyReplicaError, IntegrityError
        As `fsbackup.transfer.download` says; `target` is then as it was.
    OSError
        When `target` cannot be written.
    """
    started = asyncio.get_running_loop().time()
    reading = await locate(targets.stores, key)
    async with _temp_beside(target) as file:
        copy = _Copy(targets, reading, file, progress, rewindable=True)
        sha256 = await copy.run()
        await asyncio.to_thread(_finish, file, copy.reading.manifest)
        await asyncio.to_thread(_place, Path(file.name), target)
    report = _report(copy.reading, sha256, asyncio.get_running_loop().time() - started)
    for name in report.replicas:
        events.outcome("download", name, key, size=report.size, seconds=report.seconds)
    return report


async def copy_to(targets: ReplicaSet, key: str, out: BinaryIO) -> DownloadReport:
    """Write `key` to the stream `out`, each block proven before it is written; an error may come half-way."""
    started = asyncio.get_running_loop().time()
    copy = _Copy(targets, await locate(targets.stores, key), out, None, rewindable=False)
    sha256 = await copy.run()
    await asyncio.to_thread(out.flush)
    return _report(copy.reading, sha256, asyncio.get_running_loop().time() - started)


class _Copy:
    """Copies one object, and follows it when it is replaced (or found half replaced) in the meantime."""

    def __init__(
        self, targets: ReplicaSet, reading: Reading, out: BinaryIO, progress: Hear | None, *, rewindable: bool
    ) -> None:
        self.reading = reading
        self._stores = targets.stores
        self._out = out
        self._progress = progress
        self._rewindable = rewindable
        self._whole = hashlib.sha256()
        self._done = 0

    async def run(self) -> str:
        """Return the SHA-256 of what was copied; `reading` is the version that it is."""
        for _ in range(_FOLLOWED):
            try:
                return await self._copy()
            except (IntegrityError, NoHealthyReplicaError) as error:
                await self._follow(error)
        return await self._copy()

    async def _copy(self) -> str:
        async with contextlib.aclosing(self.reading.spans(self._done)) as spans:
            async for span in spans:
                await asyncio.to_thread(self._append, span)
                if self._progress:
                    self._progress(self._done, self.reading.size)
        found, manifest = self._whole.hexdigest(), self.reading.manifest
        if manifest is not None and found != manifest.sha256:
            key = self.reading.key
            raise IntegrityError("the blocks are right but the whole is not", operation="download", key=key)
        return found

    def _append(self, span: bytes) -> None:
        self._whole.update(span)
        self._out.write(span)
        self._done += len(span)

    async def _follow(self, error: FsbackupError) -> None:
        """Go on with the version that came in between; raise `error` when there is none, or it is too late."""
        after = await successor(self._stores, self.reading)
        if after is None:
            raise error
        if not same_beginning(self.reading, after, self._done):
            if not self._rewindable:
                raise error
            await asyncio.to_thread(self._rewind)
        self.reading = after

    def _rewind(self) -> None:
        self._out.seek(0)
        self._out.truncate()
        self._whole, self._done = hashlib.sha256(), 0


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
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    return open(path, "r+b", opener=lambda *_: descriptor)


def _finish(file: BinaryIO, manifest: Manifest | None) -> None:
    """Make the content durable and give it the mode and time of the file it was."""
    file.flush()
    source = manifest.source if manifest else None
    os.fchmod(file.fileno(), source.mode if source and source.mode is not None else 0o600)
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


def _report(reading: Reading, sha256: str, seconds: float) -> DownloadReport:
    return DownloadReport(
        key=reading.key,
        size=reading.size,
        sha256=sha256,
        verified=reading.manifest is not None,
        replicas=dict(reading.taken),
        failed={name: str(error) for name, error in reading.failed.items()},
        seconds=seconds,
    )
