"""What is stored: files of random content, and large ones with holes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_PIECE = 1 << 20
#: Of one group of rows: about 44 MiB as Parquet, 90 MiB as text.
_ROWS = 512 << 10


def size_of(text: str) -> int:
    """Return the bytes of a size such as ``512MiB``."""
    unit = _UNITS.get(text[-3:])
    return int(text[:-3]) * unit if unit else int(text)


def random_file(path: Path, size: int) -> Path:
    """Write a file of random content."""
    with path.open("wb") as opened:
        while size:
            size -= opened.write(os.urandom(min(size, _PIECE)))
    return path


def hollow_file(path: Path, size: int) -> Path:
    """Make a file that is all hole: it takes no space here, and full space wherever it is stored."""
    path.touch()
    os.truncate(path, size)
    return path


def random_tree(folder: Path, count: int, size: int) -> list[str]:
    """Write many files, 100 to a directory, and return their names below `folder`."""
    names = [f"{number // 100:03}/{number:06}.bin" for number in range(count)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        random_file(folder / name, size)
    return names


def parquet_file(path: Path, size: int) -> Path:
    """Write a table of at least `size` bytes: eight columns of numbers that nothing compresses, one of names."""
    table = _table(min(_ROWS, size // 64))
    with parquet.ParquetWriter(path, table.schema) as writer:
        while not path.exists() or path.stat().st_size < size:
            writer.write_table(table)
    return path


def csv_file(path: Path, size: int) -> Path:
    """Write such a table as text."""
    buffer = pa.BufferOutputStream()
    csv.write_csv(_table(min(_ROWS // 4, size // 128)), buffer)
    head, _, rows = buffer.getvalue().to_pybytes().partition(b"\n")
    with path.open("wb") as opened:
        opened.write(head + b"\n")
        while opened.tell() < size:
            opened.write(rows)
    return path


def log_file(path: Path, size: int) -> Path:
    """Write lines as a server logs them, of which a third differs from line to line."""
    with path.open("w") as opened:
        number = 0
        while opened.tell() < size:
            numbers = range(number, number + 10_000)
            opened.writelines(
                f"2026-11-29 18:30:{each % 60:02} INFO request {each} of user {each * 7919 % 10007}: 200 in "
                f"{each * 104729 % 997} ms\n"
                for each in numbers
            )
            number += len(numbers)
    return path


def dump_file(path: Path, size: int) -> Path:
    """Write the accounts of pgbench as pg_dump writes them: numbers, and a column that nobody has filled."""
    with path.open("w") as opened:
        opened.write("COPY public.pgbench_accounts (aid, bid, abalance, filler) FROM stdin;\n")
        number = 1
        while opened.tell() < size:
            rows = range(number, number + 10_000)
            opened.writelines(
                f"{each}\t{each // 100_000 + 1}\t{each * 7919 % 10007 - 5000}\t{'':84}\n" for each in rows
            )
            number += len(rows)
        opened.write("\\.\n")
    return path


def _table(rows: int) -> pa.Table:
    numbers = np.random.default_rng(1)
    columns = {f"c{number}": numbers.random(rows) for number in range(8)}
    names = [f"{number:016x}" for number in numbers.integers(1 << 62, size=rows)]
    return pa.table({**columns, "name": names})
