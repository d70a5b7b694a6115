"""What earlier runs saw, so that an unchanged source file is not read again, nor its replicas asked for it.

A source file is known by device, inode, size, mtime and ctime: the kernel sets the ctime with every change of the
content, and no program can set it back. What changed within the last minute before it was read is not remembered:
two changes can have the same time on a coarse clock, and pages of a file that is mapped into memory can be written
again, until the kernel has stored them (30 seconds, by default), without another time.

A stored object is known by what the listings of all replicas of its set show (`fsbackup.replication.unchanged`).

The cache is an SQLite file in the state directory. It is never the truth: an entry counts only while the file and
the listings show the same, and losing it costs time and nothing else.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

log = logging.getLogger("fsbackup.state")

#: Nanoseconds without a change before a file is read, for its content to be remembered.
SETTLED_NS = 60 * 10**9
#: Rows kept in memory until they are written in one transaction.
_BUFFERED = 1000
#: Rows asked for by one statement, which may have so many variables in every SQLite.
_AT_ONCE = 900
#: Days after which a row that nobody asked for goes, and those after which its use is recorded again.
_KEPT_DAYS, _USED_DAYS = 90, 7

_Value = int | str | bytes
_Row = tuple[_Value, ...]


class Seen:
    """What source files contained, and which versions their replicas had. Any thread may ask.

    Where the cache cannot be read or written, nothing is remembered, which is logged.

    Parameters
    ----------
    directory
        The state directory; it is made when it is missing.
    believed
        Whether what is remembered counts; where not, all is looked at and remembered again.
    """

    def __init__(self, directory: Path, *, believed: bool = True) -> None:
        self._believed = believed
        self._lock = threading.Lock()
        self._today = int(time.time() // 86400)
        self._files = _Table("files", "device INTEGER, inode INTEGER", "size, mtime_ns, ctime_ns, sha256")
        self._objects = _Table("objects", "place BLOB, name TEXT", "shown, record")
        self._database = _open(directory / "seen.sqlite", (self._files, self._objects))

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def sha256(self, status: os.stat_result) -> str | None:
        """Return the SHA-256 (hex) of the content that a file had when it was last read and that it still has.

        None when it is not known, or `status` shows a change since.
        """
        return self.sha256s([status])[0]

    def sha256s(self, statuses: Sequence[os.stat_result]) -> list[str | None]:
        """Return `sha256` of each of many files."""
        ids = [_file_id(status) for status in statuses]
        rows = self._find(self._files, ids)
        return [
            str(row[3]) if (row := rows.get(each)) is not None and row[:3] == _numbers(status) else None
            for each, status in zip(ids, statuses, strict=True)
        ]

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
        if time.time_ns() - changed >= SETTLED_NS:
            self._add(self._files, _file_id(status), (*_numbers(status), sha256))

    def record(self, place: bytes, name: str, shown: bytes) -> bytes | None:
        """Return the record that all replicas of the set `place` had of an object when listings showed `shown`."""
        return self.records(place, {name: shown}).get(name)

    def records(self, place: bytes, shown: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return `record` of many objects, by name; those of which it is None are left out."""
        rows = self._find(self._objects, [(place, name) for name in shown])
        return {
            str(name): row[1]
            for (_, name), row in rows.items()
            if row[0] == shown[str(name)] and isinstance(row[1], bytes)
        }

    def remember_record(self, place: bytes, name: str, shown: bytes, record: bytes) -> None:
        """Remember the record that all replicas of the set `place` have of the object `name`."""
        self._add(self._objects, (place, name), (shown, record))

    def close(self) -> None:
        """Write what was remembered."""
        with self._lock:
            self._flush()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _find(self, table: _Table, keys: Sequence[_Row]) -> dict[_Row, _Row]:
        """Return the values of the rows that there are, by key; none where nothing counts."""
        if not self._believed:
            return {}
        with self._lock:
            if self._database is None:
                return {}
            try:
                rows = table.find(self._database, keys)
            except sqlite3.Error as error:
                self._stop(error)
                return {}
            for key, row in rows.items():
                if int(row[-1]) < self._today - _USED_DAYS:
                    table.new[key] = (*row[:-1], self._today)
            return {key: row[:-1] for key, row in rows.items()}

    def _add(self, table: _Table, key: _Row, values: _Row) -> None:
        with self._lock:
            if self._database is None:
                return
            table.new[key] = (*values, self._today)
            if len(table.new) >= _BUFFERED:
                self._flush()

    def _flush(self) -> None:
        try:
            for table in (self._files, self._objects):
                if table.new and self._database is not None:
                    table.write(self._database, self._today - _KEPT_DAYS)
        except sqlite3.Error as error:
            self._stop(error)

    def _stop(self, error: sqlite3.Error) -> None:
        """Remember nothing any more."""
        log.warning("unchanged files are looked at again, because what was seen cannot be kept: %s", error)
        if self._database is not None:
            self._database.close()
            self._database = None


class _Table:
    """A table of the cache, and its new rows by their key until they are written; the day of use comes last."""

    def __init__(self, name: str, key: str, values: str) -> None:
        self.new: dict[_Row, _Row] = {}
        names = [each.split()[0] for each in key.split(", ")]
        every = [*names, *values.split(", "), "used_day"]
        self.schema = (
            f"CREATE TABLE IF NOT EXISTS {name} ({key}, {values}, used_day INTEGER NOT NULL,"
            f" PRIMARY KEY ({', '.join(names)})) WITHOUT ROWID"
        )
        first, second = names
        self.select = f"SELECT {second}, {values}, used_day FROM {name} WHERE {first} = ? AND {second} IN (%s)"
        self._insert = f"INSERT OR REPLACE INTO {name} VALUES ({', '.join('?' * len(every))})"
        self._delete = f"DELETE FROM {name} WHERE used_day < ?"

    def find(self, database: sqlite3.Connection, keys: Sequence[_Row]) -> dict[_Row, _Row]:
        found: dict[_Row, _Row] = {}
        for first in {key[0] for key in keys}:
            wanted = [second for begins, second in keys if begins == first]
            for at in range(0, len(wanted), _AT_ONCE):
                some = wanted[at : at + _AT_ONCE]
                rows = database.execute(self.select % ",".join("?" * len(some)), (first, *some))
                found.update({(first, row[0]): row[1:] for row in rows})
        found.update({key: self.new[key] for key in keys if key in self.new})
        return found

    def write(self, database: sqlite3.Connection, oldest: int) -> None:
        rows = [(*key, *values) for key, values in self.new.items()]
        self.new.clear()
        with database:
            database.executemany(self._insert, rows)
            database.execute(self._delete, (oldest,))


def _numbers(status: os.stat_result) -> _Row:
    """Return what shows a change of a file."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _file_id(status: os.stat_result) -> _Row:
    return _signed(status.st_dev), _signed(status.st_ino)


def _signed(number: int) -> int:
    """Return a device or inode number, of 64 bits without a sign, as SQLite's integer, which has one."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _open(file: Path, tables: Sequence[_Table]) -> sqlite3.Connection | None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            return _connect(file, tables)
        except sqlite3.OperationalError:  # locked, or the disk is full: the file may well be good
            raise
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s), and is made anew", file, error)
            os.truncate(file, 0)
            return _connect(file, tables)
    except (OSError, sqlite3.Error) as error:
        log.warning("unchanged files are looked at, too: %s: %s; set state_dir", file, error)
        return None


def _connect(file: Path, tables: Sequence[_Table]) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=5, check_same_thread=False)
    try:
        for table in tables:
            database.execute(table.schema)
            table.find(database, [(0, 0)])
        return database
    except sqlite3.Error:
        database.close()
        raise
