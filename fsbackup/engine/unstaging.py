"""Undoes the stages of an object while it is read: `Unstager` is what its proven bytes are written to, in order.

Each stage runs in a thread, and a last one writes the plaintext. Only `finish` says that all is well: the stages
have ended where their formats say so, and the plaintext is what the record says of it.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import BinaryIO

from fsbackup.errors import IntegrityError
from fsbackup.record import Manifest
from fsbackup.sizing import MIB
from fsbackup.stages import Undo
from fsbackup.stages.pipeline import CHUNK, Pipe, Pipeline, Reader, Writer
from fsbackup.stages.plaintext import Plaintext, Recorded

#: Bytes written between two flushes of a file.
_FLUSH = 64 * MIB


class Unstager:
    """Undoes the stages of one version.

    Parameters
    ----------
    undo
        With whose identity.
    manifest
        The version.
    out
        Where the plaintext goes.

    Raises
    ------
    ConfigError
        When an identity or a package is missing, or a stage is not known.
    """

    def __init__(self, undo: Undo, manifest: Manifest, out: BinaryIO) -> None:
        # A version without stages may have replaced one with stages meanwhile.
        self._recorded = recorded = Recorded.of(manifest) or Recorded((), manifest.size)
        self._out = out
        self._in = Pipe()
        self._plaintext = Plaintext(0, "")
        self._pipeline = Pipeline(self._in, [*undo.build(recorded), self._store])

    def write(self, data: bytes) -> None:
        """Hand on the next bytes; blocks while the stages are behind.

        Raises
        ------
        ConfigError
            When the identity is not one of the recipients'.
        IntegrityError
            When the bytes are not what the stages make.
        OSError
            When the plaintext cannot be written.
        """
        self._pipeline.start()
        self._in.write(data)

    def finish(self) -> Plaintext:
        """Wait until all is written, and return what it was.

        Raises
        ------
        ConfigError, IntegrityError, OSError
            As for `write`; also when the bytes end in the middle.
        """
        self._pipeline.start()
        self._in.end()
        self._pipeline.read(1)
        return self._plaintext

    def abort(self) -> None:
        """End the stages at once, and wait until nothing is written any more."""
        self._pipeline.close()
        self._pipeline.join()

    def abandon(self) -> None:
        """End the stages, without waiting for a write that may never end."""
        self._pipeline.close()

    def _store(self, reader: Reader, _writer: Writer) -> None:
        size, sha256, wanted = 0, hashlib.sha256(), self._recorded.size
        while data := reader.read(CHUNK):
            size += len(data)
            if wanted is not None and size > wanted:
                raise IntegrityError(f"it is more than the {wanted:,} bytes that were stored")
            if self._recorded.sha256 is not None:
                sha256.update(data)
            self._out.write(data)
            self._flush_behind(size, len(data))
        self._plaintext = Plaintext(size, sha256.hexdigest())
        if wanted not in (None, size) or self._recorded.sha256 not in (None, self._plaintext.sha256):
            raise IntegrityError(f"the {size:,} bytes that it becomes are not those that were stored")

    def _flush_behind(self, size: int, length: int) -> None:
        """Flush to the disk now and then, so that the last flush is a short one."""
        if size % _FLUSH < length:
            self._out.flush()
            with suppress(OSError, AttributeError):  # it is no file, or has no descriptor
                os.fdatasync(self._out.fileno())
