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
from fsbackup.errors import IntegrityError
from fsbackup.keys import TEMP_SUFFIX
from fsbackup.manifest import Manifest
from fsbackup.transfer.download import Reading, announced_successor, locate
from fsbackup.transfer.replicas import ReplicaSet
from fsbackup.transfer.results import DownloadReport

Hear = Callable[[int, int], None]


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
        reading, sha256 = await _proven_copy(reading, file, progress)
        await asyncio.to_thread(_finish, file, reading.manifest)
        await asyncio.to_thread(_place, Path(file.name), target)
    report = _report(reading, sha256, asyncio.get_running_loop().time() - started)
    for name in report.replicas:
        events.outcome("download", name, key, size=report.size, seconds=report.seconds)
    return report


async def _proven_copy(reading: Reading, file: BinaryIO, progress: Hear | None) -> tuple[Reading, str]:
    """Copy the object; when a crash in the middle of a replacement left only the new version, copy that."""
    try:
        return reading, await _copy(reading, file, progress)
    except IntegrityError:
        successor = await announced_successor(reading)
        if successor is None:
            raise
        await asyncio.to_thread(_rewind, file)
        return successor, await _copy(successor, file, progress)


async def _copy(reading: Reading, file: BinaryIO, progress: Hear | None) -> str:
    whole, so_far = hashlib.sha256(), 0
    async with contextlib.aclosing(reading.spans()) as spans:
        async for span in spans:
            await asyncio.to_thread(_append, file, whole.update, span)
            so_far += len(span)
            if progress:
                progress(so_far, reading.size)
    found = whole.hexdigest()
    if reading.manifest is not None and found != reading.manifest.sha256:
        raise IntegrityError("the blocks are right but the whole is not", operation="download", key=reading.key)
    return found


def _append(file: BinaryIO, update: Callable[[bytes], None], span: bytes) -> None:
    update(span)
    file.write(span)


def _rewind(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


@contextlib.asynccontextmanager
async def _temp_beside(target: Path) -> AsyncIterator[BinaryIO]:
    """Open a private temp file in the target's directory; whatever is left of it at the end is removed."""
    path = target.parent / f".{secrets.token_hex(8)}{TEMP_SUFFIX}"
    file = await asyncio.to_thread(_create, path)
    try:
        yield file
    finally:
        file.close()
        path.unlink(missing_ok=True)


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


async def copy_to(targets: ReplicaSet, key: str, out: BinaryIO) -> DownloadReport:
    """Write `key` to the stream `out`, each block proven before it is written; an error may come half-way."""
    started = asyncio.get_running_loop().time()
    reading = await locate(targets.stores, key)
    sha256 = await _copy(reading, out, None)
    await asyncio.to_thread(out.flush)
    return _report(reading, sha256, asyncio.get_running_loop().time() - started)
