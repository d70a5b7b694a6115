"""The names of PostgreSQL's WAL files, and the keys under which an archive has them and its base backups. No I/O.

An archive is everything of one cluster below one prefix::

    PREFIX/cluster.json                         whose archive it is
    PREFIX/wal/000000010000000000000007         a segment; also .partial, .backup and .history files, as PostgreSQL
                                                calls them
    PREFIX/base/20261129T191700Z/base.tar       a base backup, by the time at which it began
    PREFIX/base/20261129T191700Z/20261129T191742.123Z-000000010000000000000007-0000000000000009.json
                                                its description, stored last: when it ended, and the first and the
                                                last segment without which it is no use (of the last one, the
                                                position). Without it the base backup is unfinished.

So a listing tells which WAL which base backup needs. What compression and encryption add to a key (``.zst``,
``.age``) does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_WAL_NAME = re.compile(
    r"(?P<timeline>[0-9A-F]{8})(?:(?P<position>[0-9A-F]{16})(?P<kind>\.partial|\.[0-9A-F]{8}\.backup)?|\.history)"
)
_STAMP = "[0-9]{8}T[0-9]{6}Z"
_INSTANT = r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z"
_BASE = re.compile(
    rf"(?P<label>{_STAMP})/(?:(?P<data>base\.tar)|(?P<stopped>{_INSTANT})-(?P<timeline>[0-9A-F]{{8}})"
    r"(?P<position>[0-9A-F]{16})-(?P<last>[0-9A-F]{16})\.json)"
)
_STAMP_FORMAT = "%Y%m%dT%H%M%SZ"
#: The bytes that the upper and the lower half of a position count.
_LOG_BYTES = 1 << 32

WalKind = Literal["segment", "partial", "backup", "history"]


@dataclass(frozen=True, slots=True)
class WalName:
    """The name of a WAL file.

    Parameters
    ----------
    text
        The name itself, such as ``000000010000000000000007``.
    timeline
        The timeline's number.
    position
        Sixteen hex digits that order the segments of a timeline; empty for a ``.history`` file.
    kind
        ``"segment"``, ``"partial"`` (the unfinished last segment of a timeline that was left), ``"backup"`` (the
        description of a base backup) or ``"history"`` (where a timeline branched off).
    """

    text: str
    timeline: int
    position: str
    kind: WalKind

    @property
    def segment(self) -> str:
        """The name of the segment that it is, or belongs to; empty for a ``.history`` file."""
        return f"{self.timeline:08X}{self.position}" if self.position else ""

    def start(self, segment_size: int) -> int:
        """Return the position (LSN) of its first byte, in a cluster whose segments have `segment_size` bytes."""
        return int(self.position[:8], 16) * _LOG_BYTES + int(self.position[8:], 16) * segment_size


@dataclass(frozen=True, slots=True)
class BaseName:
    """The key of a part of a base backup.

    Parameters
    ----------
    label
        Names the base backup: the time at which it began.
    stopped
        When it ended, in epoch seconds; None for its data.
    timeline, position
        Those of the segment from which it needs the WAL; 0 and empty for its data.
    last
        The position of the last segment without which it cannot be recovered.
    """

    label: str
    stopped: float | None = None
    timeline: int = 0
    position: str = ""
    last: str = ""

    @property
    def is_description(self) -> bool:
        """Whether it is the description, without which the base backup is unfinished."""
        return self.stopped is not None

    @property
    def started(self) -> float:
        """When the base backup began, in epoch seconds."""
        return _epoch(self.label)


def parse_wal_name(text: str) -> WalName | None:
    """Return the name of a WAL file, None when `text` is none."""
    found = _WAL_NAME.fullmatch(text)
    if found is None:
        return None
    position, ending = found["position"] or "", found["kind"] or ""
    kind: WalKind = "history" if not position else "partial" if ending == ".partial" else "segment"
    return WalName(text, int(found["timeline"], 16), position, "backup" if ending.endswith(".backup") else kind)


def parse_key(prefix: str, key: str) -> WalName | BaseName | None:
    """Return what `key` is in the archive at `prefix`, None when it is neither WAL nor part of a base backup."""
    room, _, rest = key.removeprefix(f"{prefix}/").partition("/")
    if room == "wal":
        return parse_wal_name(without_stages(rest))
    found = _BASE.fullmatch(without_stages(rest)) if room == "base" else None
    if found is None:
        return None
    if found["data"]:
        return BaseName(found["label"])
    timeline = int(found["timeline"], 16)
    return BaseName(found["label"], _epoch(found["stopped"]), timeline, found["position"], found["last"])


def without_stages(text: str) -> str:
    """Return a key without what compression and encryption have added to it."""
    stem = text.removesuffix(".age")
    return stem.removesuffix(".zst")


def cluster_key(prefix: str) -> str:
    """Return the key that says whose archive it is."""
    return f"{prefix}/cluster.json"


def wal_key(prefix: str, name: str) -> str:
    """Return the key of a WAL file."""
    return f"{prefix}/wal/{name}"


def base_key(prefix: str, label: str) -> str:
    """Return the key of a base backup's data."""
    return f"{prefix}/base/{label}/base.tar"


def description_key(prefix: str, label: str, stopped: float, first: str, last: str) -> str:
    """Return the key of a base backup's description; `first` and `last` are names of segments."""
    seconds, thousandths = divmod(round(stopped * 1000), 1000)
    instant = f"{stamp(seconds).removesuffix('Z')}.{thousandths:03d}Z"
    return f"{prefix}/base/{label}/{instant}-{first}-{last[8:]}.json"


def stamp(when: float) -> str:
    """Return epoch seconds as they stand in keys: UTC, to the second."""
    return datetime.fromtimestamp(when, UTC).strftime(_STAMP_FORMAT)


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def segment_name(timeline: int, start: int, segment_size: int) -> str:
    """Return the name of the segment of a timeline that has the byte at the position `start`."""
    log, offset = divmod(start, _LOG_BYTES)
    return f"{timeline:08X}{log:08X}{offset // segment_size:08X}"


def segment_number(position: str, segment_size: int) -> int:
    """Return the number of the segment at a position (sixteen hex digits), from the beginning of the WAL."""
    return int(position[:8], 16) * (_LOG_BYTES // segment_size) + int(position[8:], 16)


def parse_lsn(text: str) -> int:
    """Return the position that PostgreSQL writes as ``0/2000028``.

    Raises
    ------
    ValueError
        When it is none.
    """
    log, _, offset = text.partition("/")
    return int(log, 16) * _LOG_BYTES + int(offset, 16)


def format_lsn(position: int) -> str:
    """Return a position as PostgreSQL writes it."""
    return f"{position // _LOG_BYTES:X}/{position % _LOG_BYTES:X}"


def parse_stops(text: str) -> dict[tuple[int, int], float]:
    """Return when the ancestors in a ``.history`` file were left, by timeline and position, in epoch seconds.

    Known of those that a recovery to a moment has left: PostgreSQL writes the time of the first commit that it did
    not recover any more, as in ``before 2026-11-29 18:30:00.25+00``.
    """
    found = {}
    for line in text.splitlines():
        timeline, left, why, *_ = *line.split("\t"), "", ""
        with suppress(ValueError):
            found[int(timeline), parse_lsn(left)] = _epoch(why.removeprefix("before "))
    return found


def parse_history(text: str) -> list[tuple[int, int]]:
    """Return the ancestors in a ``.history`` file, oldest first: each timeline, and where it was left.

    Raises
    ------
    ValueError
        When a line is not one of such a file.
    """
    lines: Iterable[list[str]] = (line.split("\t") for line in text.splitlines())
    return [(int(line[0]), parse_lsn(line[1])) for line in lines if len(line) > 1 and not line[0].startswith("#")]
