"""Which content source files had when they were last read, so that an unchanged file is not read again.

A file is known by device, inode, size, mtime and ctime: the kernel sets the ctime with every change of the
content, and no program can set it back. What changed within the last minute before it was read is not remembered:
two changes can have the same time on a coarse clock, and pages of a file that is mapped into memory can be written
again, until the kernel has stored them (30 seconds, by default), without another time.

The cache is an SQLite file in the state directory. It is never the truth about what is stored: an entry says only
what a source file has, and where the replicas do not have the same, the file is read. Losing it costs time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType

log = logging.getLogger("fsbackup.state")

#: Nanoseconds without a change before a file is read, for its content to be remembered.
SETTLED_NS = 60 * 10**9
#: Entries kept in memory until they are written in one transaction.
_BUFFERED = 1000
#: Days after which an entry that nobody asked for goes, and those after which its use is recorded again.
_KEPT_DAYS, _USED_DAYS = 90, 7

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT NOT NULL,
  used_day INTEGER NOT NULL, PRIMARY KEY (device, inode)
) WITHOUT ROWID
"""

_Row = tuple[int, int, int, int, int, str, int]


class SeenFiles:
    """The SHA-256 of source files as they were last read. Any thread may ask.

    Where the cache cannot be read or written, nothing is remembered, which is logged.

    Parameters
    ----------
    directory
        The state directory; it is made when it is missing.
    believed
        Whether what is remembered counts; where not, each file is read and remembered again.
    """

    def __init__(self, directory: Path, *, believed: bool = True) -> None:
        self._believed = believed
        self._lock = threading.Lock()
        self._new: dict[tuple[int, int], _Row] = {}
        self._today = int(time.time() // 86400)
        self._database = _open(directory / "seen.sqlite")

    def __enter__(self) -> SeenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sha256(self, status: os.stat_result) -> str | None:
        """Return the SHA-256 (hex) of the content that a file had when it was last read and that it still has.

        None when it is not known, or `status` shows a change since.
        """
        if not self._believed:
            return None
        with self._lock:
            row = self._new.get((status.st_dev, status.st_ino)) or self._select(status)
            if row is None or row[2:5] != (status.st_size, status.st_mtime_ns, status.st_ctime_ns):
                return None
            if row[6] < self._today - _USED_DAYS:
                self._add((*row[:6], self._today))
            return row[5]

    def remember(self, status: os.stat_result, sha256: str) -> None:
        """Remember the content of a file that was read to its end.

        Parameters
        ----------
        status
            From the time before it was read, and unchanged since.
        sha256
            Of the content, lower-case hex.
        """
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        if time.time_ns() - changed < SETTLED_NS:
            return
        numbers = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        with self._lock:
            self._add((*numbers, sha256, self._today))

    def close(self) -> None:
        """Write what was remembered."""
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _select(self, status: os.stat_result) -> _Row | None:
        if self._database is None:
            return None
        try:
            found = self._database.execute(
                "SELECT * FROM files WHERE device = ? AND inode = ?",
                (_signed(status.st_dev), _signed(status.st_ino)),
            ).fetchone()
        except sqlite3.Error as error:
            self._stop(error)
            return None
        return (status.st_dev, status.st_ino, *found[2:]) if found else None

    def _add(self, row: _Row) -> None:
        if self._database is None:
            return
        self._new[row[:2]] = row
        if len(self._new) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        rows = [(_signed(row[0]), _signed(row[1]), *row[2:]) for row in self._new.values()]
        self._new.clear()
        if not rows or self._database is None:
            return
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
                self._database.execute("DELETE FROM files WHERE used_day < ?", (self._today - _KEPT_DAYS,))
        except sqlite3.Error as error:
            self._stop(error)

    def _stop(self, error: sqlite3.Error) -> None:
        """Remember nothing any more."""
        log.warning("source files are read again, because what was seen of them cannot be kept: %s", error)
        if self._database is not None:
            self._database.close()
            self._database = None


def _signed(number: int) -> int:
    """Return a device or inode number, of 64 bits without a sign, as SQLite's integer, which has one."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _open(file: Path) -> sqlite3.Connection | None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            return _connect(file)
        except sqlite3.OperationalError:  # locked, or the disk is full: the file may well be good
            raise
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s), and is made anew", file, error)
            os.truncate(file, 0)
            return _connect(file)
    except (OSError, sqlite3.Error) as error:
        log.warning("unchanged source files are read, too: %s: %s; set state_dir", file, error)
        return None


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=5, check_same_thread=False)
    try:
        database.execute(_SCHEMA)
        database.execute("SELECT device, inode, size, mtime_ns, ctime_ns, sha256, used_day FROM files LIMIT 1")
        return database
    except sqlite3.Error:
        database.close()
        raise
