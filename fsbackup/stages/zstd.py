"""Compression by Zstandard: what ``zstd`` makes, with its checksum of the content."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

from fsbackup.errors import IntegrityError, missing_package
from fsbackup.sizing import MIB
from fsbackup.stages.pipeline import CHUNK, Reader, Stage, Writer

log = logging.getLogger("fsbackup.storage")

SUFFIX = ".zst"
DEFAULT_LEVEL = 3
#: The levels of ``zstd`` without ``--ultra``: those above take hundreds of megabytes to undo, too.
LEVELS = range(1, 20)

#: At these levels zstd takes half as long again for pieces that come one by one as for jobs of several pieces, as
#: ``zstd`` itself makes them, all in one frame: the readers of pandas and fsspec stop at the end of the first. A
#: thread of its own does these; three or four of them are in memory.
_BY_JOBS, _JOB = range(3, 5), 2 * MIB

#: What is compressed (or encrypted, and so as random) already begins with one of these.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"age-encryption.org/": "age",
}


def library() -> ModuleType:
    """Return the module that compresses: of the standard library, or the same for older ones.

    Raises
    ------
    ConfigError
        When it is not installed.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise missing_package("Zstandard", "zstd", error) from None
    return zstd


def bound(size: int) -> int:
    """Return the most bytes that `size` bytes can be compressed to (ZSTD_COMPRESSBOUND, in one frame)."""
    return size + (size >> 8) + 1024


def compressing(level: int, label: str) -> Stage:
    """Return the stage that compresses; `label` names the source in a warning that it is compressed already."""
    zstd = library()

    def compress(reader: Reader, writer: Writer) -> None:
        compressor = zstd.ZstdCompressor(options=_options(zstd, level))
        data = reader.read(CHUNK)
        _warn_if_compressed(data, label)
        while data:
            writer.write(compressor.compress(data))
            data = reader.read(CHUNK)
        writer.write(compressor.flush())

    return compress


def _options(zstd: ModuleType, level: int) -> dict[Any, int]:
    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: level, parameter.checksum_flag: 1}
    if level in _BY_JOBS and parameter.nb_workers.bounds()[1]:  # 0 where the library was built without threads
        options |= {parameter.nb_workers: 1, parameter.job_size: _JOB}
    return options


def decompressing() -> Stage:
    """Return the stage that undoes `compressing`, and what any ``zstd`` wrote; also of several frames."""
    zstd = library()

    def decompress(reader: Reader, writer: Writer) -> None:
        data, decompressor = reader.read(CHUNK), None
        try:
            while data:
                decompressor = zstd.ZstdDecompressor()
                data = _one_frame(decompressor, data, reader, writer)
        except zstd.ZstdError as error:
            raise IntegrityError(f"cannot be decompressed: {error}") from error
        if decompressor is None or not decompressor.eof:
            raise IntegrityError("cannot be decompressed: it ends in the middle")

    return decompress


def _one_frame(frame: Any, data: bytes, reader: Reader, writer: Writer) -> bytes:
    """Decompress one frame that begins with `data`; return what comes behind it."""
    while data:
        writer.write(frame.decompress(data, CHUNK))
        while not frame.eof and not frame.needs_input:
            writer.write(frame.decompress(b"", CHUNK))
        if frame.eof:
            return frame.unused_data or reader.read(CHUNK)
        data = reader.read(CHUNK)
    return b""


def _warn_if_compressed(data: bytes, label: str) -> None:
    kind = next((name for magic, name in _COMPRESSED.items() if data.startswith(magic)), None)
    if kind is not None:
        log.warning(
            "%s: looks %s already (%s); compressing it again rarely saves anything, leave out compress then",
            label,
            "encrypted" if kind == "age" else "compressed",
            kind,
        )
