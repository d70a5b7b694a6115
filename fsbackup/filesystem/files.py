"""A file opened to read, pinned to its version; and the modes that files are opened in."""

from __future__ import annotations

import io
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from fsbackup.filesystem.readahead import ReadAhead
from fsbackup.filesystem.versions import Version
from fsbackup.sizing import MIB

if TYPE_CHECKING:
    from fsbackup.filesystem.filesystem import FsbackupFileSystem

#: The most bytes that are read ahead with one request; s3fs reads 50 MiB.
AHEAD = 16 * MIB


class ReadFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file opened to read: all its bytes are of the version that it was when it was opened, and proven.

    Raises
    ------
    IntegrityError, NoHealthyReplicaError
        From reads: no replica gave proven bytes, or another version has taken this one's place.
    """

    DEFAULT_BLOCK_SIZE = AHEAD

    def __init__(
        self, fs: FsbackupFileSystem, version: Version, *, cache_type: str = ReadAhead.name, **options: Any
    ) -> None:
        self.version = version
        options["size"] = version.size
        own = cache_type == ReadAhead.name
        super().__init__(fs, version.path, "rb", cache_type="none" if own else cache_type, **options)
        if own:
            manifest = version.reader.manifest
            unit = manifest.block_size if manifest else MIB
            self.cache = ReadAhead(
                self.blocksize, self._fetch_range, self.size, start=self._start_range, unit=unit
            )
        self.details = version.info()
        #: Another process that gets this file opens the same version, or none.
        self.kwargs = {"sha256": self.details["sha256"]}

    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_version(self.version, start, end)
        return data

    def _start_range(self, start: int, end: int) -> Future[bytes]:
        started: Future[bytes] = self.fs.start_reading(self.version, start, end)
        return started


def refuse(mode: str) -> None:
    """Raise for a mode that would change an object in place.

    Raises
    ------
    io.UnsupportedOperation
        For ``"ab"``, ``"r+b"`` and the like: an object is replaced whole or not at all.
    """
    if mode not in ("rb", "wb", "xb"):
        raise io.UnsupportedOperation(f"mode {mode!r}: an object is written whole; open it with 'wb' or 'xb'")
