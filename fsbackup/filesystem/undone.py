"""Encrypted objects, read as what they were: decrypted and decompressed as a whole, then read like any file.

What is only compressed is read as it is stored: its name says so (``.zst``), and pandas and fsspec's own
`compression` go by the name.
"""

from __future__ import annotations

import errno
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.spec import AbstractBufferedFile

from fsbackup.engine import restore
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.errors import OutOfSpaceError
from fsbackup.filesystem.versions import Version
from fsbackup.sizing import MIB
from fsbackup.stages import Undo
from fsbackup.stages.pipeline import Stage
from fsbackup.stages.plaintext import Recorded

if TYPE_CHECKING:
    from fsbackup.filesystem.base import FileSystemBase

#: Plaintext in memory; a longer one is in a temp file without a name.
_IN_MEMORY = 64 * MIB
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def encrypted(version: Version) -> Recorded | None:
    """Return what is recorded of the stages of an encrypted object; None for any other."""
    recorded = Recorded.of(version.reader.manifest)
    return recorded if recorded is not None and "age" in recorded.names else None


class _Spool(tempfile.SpooledTemporaryFile[bytes]):
    """A temp file that who opened the plaintext may drop without closing it, as pandas does.

    Parameters
    ----------
    key
        Of the object, for the error when the disk is full.
    """

    def __init__(self, key: str) -> None:
        super().__init__(_IN_MEMORY, prefix="fsbackup-")
        self._key = key

    def write(self, data: Any) -> int:
        """Add bytes; `OutOfSpaceError` when the directory for temp files is full."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _FULL_DISK:
                raise
            raise OutOfSpaceError(
                f"it is decrypted as a whole, into a temp file in {tempfile.gettempdir()}, which has no room for "
                f"it: {error.strerror}",
                operation="read",
                key=self._key,
                hint="free space there, or set TMPDIR to a directory with room for the plaintext",
            ) from error

    def __del__(self) -> None:
        self.close()


async def undone(targets: ReplicaSet, version: Version, undo: Undo) -> tuple[Version, io.IOBase]:
    """Return the plaintext of an encrypted version, proven and whole, at its beginning, and which version it is.

    Where the object was replaced meanwhile, that is the newer one.

    Raises
    ------
    ConfigError
        When no identity is configured, or it is not one of the recipients'.
    IntegrityError, NoHealthyReplicaError
        When no replica gives proven bytes, or these are not what the stages make.
    OutOfSpaceError
        When it does not fit into the directory for temp files.
    """
    file: Any = _Spool(version.reader.plan.key)
    try:
        reader = await restore.unstage(targets, version.reader, file, undo)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return replace(version, reader=reader), file


def plain_info(version: Version, size: int) -> dict[str, Any]:
    """Return the info of an encrypted version that is read as `size` bytes of plaintext.

    ``sha256`` is None: what is known is that of the stored bytes, ``stored_sha256``, which no reader gets.
    """
    info = version.info()
    stored = {"stored_size": info["size"], "stored_sha256": info["sha256"]}
    return {**info, "size": size, "sha256": None, **stored}


class UndoneFile(AbstractBufferedFile):  # type: ignore[misc]
    """The plaintext of an encrypted object, opened to read: a file of fsspec, as its caches need one.

    Parameters
    ----------
    fs
        Opens the path again where the file is unpickled.
    version
        What was opened.
    file
        Its plaintext.
    cache_type, **options
        As for any file of fsspec; by default nothing is kept of what is at hand already.
    """

    def __init__(
        self,
        fs: FileSystemBase,
        version: Version,
        file: io.IOBase,
        *,
        cache_type: str = "none",
        **options: Any,
    ) -> None:
        self._file: Any = file
        options["size"] = file.seek(0, io.SEEK_END)
        super().__init__(fs, version.path, "rb", cache_type=cache_type, **options)
        self.details = plain_info(version, self.size)

    def ranges(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes from each start up to its end."""
        return [self._fetch_range(start, end) for start, end in wanted]

    def read1(self, size: int = -1, /) -> bytes:
        """Return what `read` does: nothing is waited for."""
        return bytes(self.read(size))

    def _fetch_range(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return bytes(self._file.read(end - start))

    def close(self) -> None:
        """Drop the plaintext."""
        super().close()
        self._file.close()

    def __reduce__(self) -> Any:
        # The same version, or an error, as for any other file.
        return partial(self.fs.open, self.path, "rb", sha256=self.details["stored_sha256"]), ()


class UndoEncrypted(Undo):
    """An `Undo` for encrypted objects only, which `fs.open` decrypts; for others it raises `StoredAsReadError`."""

    def __init__(self, undo: Undo) -> None:
        super().__init__()
        self._undo = undo

    def build(self, recorded: Recorded) -> list[Stage]:
        """Return what undoes the stages; see `Undo.build`."""
        if "age" not in recorded.names:
            raise StoredAsReadError
        return self._undo.build(recorded)


class StoredAsReadError(Exception):
    """What is stored is what is read: there is nothing to undo."""
