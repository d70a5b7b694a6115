"""WAL segments made by hand: a right first page and nothing behind it; and an archive of them on three disks."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fsbackup import LocalStorage, ReplicatedStorage, Stages
from fsbackup.postgres import Archive, push
from fsbackup.wal import base_key, description_key, stamp

MIB = 1 << 20
#: The system identifier of a cluster, and that of another.
OURS, OTHER = 7123456789012345678, 7999999999999999999


def name_of(number: int, timeline: int = 1) -> str:
    """Return the name of a segment of 1 MiB."""
    return f"{timeline:08X}{number // 4096:08X}{number % 4096:08X}"


def segment(number: int, *, timeline: int = 1, system: int = OURS, body: bytes = b"", size: int = MIB) -> bytes:
    """Return a segment of a cluster with segments of `size` bytes, as PostgreSQL 15 lays out its first page."""
    head = struct.pack("<HHIQI4xQII", 0xD110, 2, timeline, number * size, 0, system, size, 8192)
    return (head + body).ljust(size, b"\0")


def control_file(nonce: bytes, *, system: int = OURS, version: int = 1300) -> bytes:
    """Return a `pg_control` as PostgreSQL 15 lays it out: 288 bytes with a CRC-32C behind them, and zeros."""
    data = struct.pack("<QII", system, version, 202209061).ljust(288 - len(nonce), b"\x07") + nonce
    crc = 0xFFFFFFFF
    for bit in (byte >> shift & 1 for byte in data for shift in range(8)):
        crc = crc >> 1 ^ (0x82F63B78 if (crc ^ bit) & 1 else 0)
    return (data + struct.pack("<I", crc ^ 0xFFFFFFFF)).ljust(8192, b"\0")


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar with these files, as pg_basebackup writes one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


#: A data directory as small as can be.
FILES = {"backup_label": b"START WAL\n", "PG_VERSION": b"15\n", "postgresql.conf": b"archive_mode = on  # yes\n"}


@dataclass(frozen=True)
class Clouds:
    """An archive on disks, of which one can be taken away."""

    home: Path
    names: tuple[str, ...] = ("r2", "b2")
    min_copies: int = 1

    @property
    def archive(self) -> Archive:
        """The archive as a new process would open it."""
        disks = [LocalStorage(self.home / name, name=name, errors="raise") for name in self.names]
        store = ReplicatedStorage(disks, min_copies=self.min_copies, name="wal")
        return Archive(store, "pg/shop", name="shop", spool=self.home / "spool/shop")

    def file(self, name: str, data: bytes) -> Path:
        """Return a file in PostgreSQL's pg_wal."""
        path = self.home / "pg_wal" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def push(self, *numbers: int, timeline: int = 1) -> None:
        """Archive segments."""
        archive = self.archive
        for number in numbers:
            name = name_of(number, timeline)
            assert push(archive, self.file(name, segment(number, timeline=timeline)))

    def base(
        self,
        first: int,
        *,
        days: float = 1.0,
        timeline: int = 1,
        last: int | None = None,
        data: bytes = b"no tar",
        stages: Stages | None = None,
        described: bytes = b"{}",
    ) -> str:
        """Store what a base backup that ended so many days ago leaves in an archive, and return its label."""
        stopped = time.time() - days * 86_400
        label = stamp(stopped - 600)
        names = [name_of(first if number is None else number, timeline) for number in (None, last)]
        description = description_key("pg/shop", label, stopped, *names)
        store = self.archive.store
        assert store.replicate(io.BytesIO(data), base_key("pg/shop", label), stages=stages)
        assert store.replicate(io.BytesIO(described), description)
        return label

    def stored(self, cloud: str) -> dict[str, bytes]:
        """Return what a disk has of the archive, by name."""
        root = self.home / cloud / "pg/shop"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def lose(self, cloud: str, name: str) -> None:
        """Remove one file from a disk, with its manifest, as if it had never come there."""
        for place in (".", ".fsbackup/manifests"):
            os.unlink(self.home / cloud / place / "pg/shop" / name)

    def take_away(self, cloud: str) -> None:
        """Have a disk give errors, whatever it is asked."""
        (self.home / cloud).rename(self.home / f"{cloud}-away")
        (self.home / cloud).write_text("no directory")

    def bring_back(self, cloud: str) -> None:
        """Have it answer again."""
        (self.home / cloud).unlink()
        (self.home / f"{cloud}-away").rename(self.home / cloud)
