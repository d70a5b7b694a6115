"""Encrypted objects, read as what they were: decrypted and decompressed as a whole, then read like any file.

What is only compressed is read as it is stored: its name says so (``.zst``), and pandas and fsspec's own
`compression` go by the name.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fsbackup.engine import restore
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.filesystem.versions import Version
from fsbackup.sizing import MIB
from fsbackup.stages import Undo
from fsbackup.stages.plaintext import Recorded

if TYPE_CHECKING:
    from fsbackup.filesystem.base import FileSystemBase

#: Plaintext in memory; a longer one is in a temp file without a name.
_IN_MEMORY = 64 * MIB


def encrypted(version: Version) -> Recorded | None:
    """Return what is recorded of the stages of an encrypted object; None for any other."""
    recorded = Recorded.of(version.reader.manifest)
    return recorded if recorded is not None and "age" in recorded.names else None


async def undone(targets: ReplicaSet, version: Version, undo: Undo) -> io.IOBase:
    """Return the plaintext of an encrypted version, proven and whole, at its beginning.

    Raises
    ------
    ConfigError
        When no identity is configured, or it is not one of the recipients'.
    IntegrityError, NoHealthyReplicaError
        When no replica gives proven bytes, or these are not what the stages make.
    """
    file: Any = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="fsbackup-")  # noqa: SIM115 - the caller's
    try:
        await restore.unstage(targets, version.reader, file, undo)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[no-any-return]


class UndoneFile(io.BufferedIOBase):
    """The plaintext of an encrypted object, opened to read.

    Parameters
    ----------
    fs
        Opens the path again where the file is unpickled.
    version
        What was opened.
    file
        Its plaintext.
    """

    mode = "rb"

    def __init__(self, fs: FileSystemBase, version: Version, file: io.IOBase) -> None:
        self.fs = fs
        self.path = version.path
        self.size = file.seek(0, io.SEEK_END)
        self.details = {**version.info(), "size": self.size}
        file.seek(0)
        self._file: Any = file

    def ranges(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes from each start up to its end."""
        return [self.read(end - start) for start, end in wanted if self.seek(start) == start]

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, by default all that are left."""
        return bytes(self._file.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        """Return the same: nothing is waited for."""
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, and return it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Drop the plaintext."""
        self._file.close()
        super().close()

    def __reduce__(self) -> Any:
        # The same version, or an error, as for any other file.
        return partial(self.fs.open, self.path, "rb", sha256=self.details["sha256"]), ()
