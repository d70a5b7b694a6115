"""What a WAL segment says of itself on its first page: whose it is, and where it belongs.

The header is `XLogLongPageHeaderData` of PostgreSQL's ``src/include/access/xlog_internal.h``, the same since 9.3
but for its magic number, which changes with the major version.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from fsbackup.errors import SourceError, SourceNotFoundError
from fsbackup.wal import WalName

#: xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len; xlp_sysid, xlp_seg_size, xlp_xlog_blcksz.
_LAYOUT = "HHIQI4xQII"
_LENGTH = struct.calcsize(f"<{_LAYOUT}")
#: Every magic number of a WAL page so far is 0xD0.. or 0xD1..; read in the wrong byte order none is.
_MAGIC = frozenset({0xD0, 0xD1})
#: The bit of xlp_info that says that the page has the long header, as the first one of a segment does.
_LONG_HEADER = 0x0002
_SMALLEST, _LARGEST = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The first page of a segment.

    Parameters
    ----------
    timeline
        The timeline on which the page was written: the one in the segment's name, or one that it branched from.
    start
        The position (LSN) of its first byte.
    system_identifier
        The cluster's, made by ``initdb``.
    segment_size
        Bytes of each of the cluster's segments.
    """

    timeline: int
    start: int
    system_identifier: int
    segment_size: int


def read_segment(path: str | os.PathLike[str], name: WalName) -> SegmentHeader:
    """Return the header of the segment, or partial segment, in a file.

    Raises
    ------
    SourceError
        When the file cannot be read, or is not the segment that `name` says: wrong size, no page of WAL at its
        beginning, or one of another place in the WAL.
    """
    try:
        with open(path, "rb") as file:
            data, size = file.read(_LENGTH), os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    header = _parse(data)
    problem = "its first page is no page of WAL" if header is None else _problem(header, name, size)
    if header is None or problem:
        raise SourceError(
            f"{Path(path).name}: {problem}: this is not the segment {name.segment}",
            hint="look at it with pg_waldump; a segment that PostgreSQL hands on is whole, so what is it?",
        )
    return header


def _parse(data: bytes) -> SegmentHeader | None:
    for order in "<>" if len(data) == _LENGTH else "":
        magic, info, timeline, start, _, system, segment_size, _ = struct.unpack(order + _LAYOUT, data)
        if magic >> 8 in _MAGIC and info & _LONG_HEADER:
            return SegmentHeader(timeline, start, system, segment_size)
    return None


def _problem(header: SegmentHeader, name: WalName, size: int) -> str:
    """Return what of a header does not fit the name and size of its file, "" when all does."""
    length = header.segment_size
    if not _SMALLEST <= length <= _LARGEST or length & (length - 1):
        return f"its first page says that segments have {length:,} bytes"
    if size != length:
        return f"it has {size:,} bytes, and a segment of its cluster {length:,}"
    if header.start != name.start(length):
        return f"it begins at {header.start:#x} of the WAL, not at {name.start(length):#x}"
    if header.timeline > name.timeline:
        return f"its first page is of timeline {header.timeline}"
    return ""
