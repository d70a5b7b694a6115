"""A secret that a PostgreSQL cluster has anyway: by it an encrypted segment is recognised as the same.

``initdb`` puts random bytes into ``global/pg_control``, the mock authentication nonce, which no client ever sees.
They are in every physical copy of the cluster, and so never lost while there is WAL to archive: not with a host's
state directory, nor on a standby that archives, too, nor on a restored server. Who reads the bucket has them only
with a base backup that is not encrypted.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import cache
from pathlib import Path

#: Its place in a data directory.
_CONTROL_FILE = "global/pg_control"
#: system_identifier, pg_control_version. All that counts is within the first sector, which is written at once.
_HEAD, _SECTOR = "=QI", 512
#: The first pg_control_version with a nonce, of PostgreSQL 10, and more than any will have.
_VERSIONS = range(1002, 10_000)
_NONCE = 32
#: Times that it is read, as it may be written meanwhile.
_TRIES = 5


def cluster_secret(segment: str | os.PathLike[str], system_identifier: int) -> bytes | None:
    """Return 32 bytes that only copies of a cluster have; None where a segment is not in a data directory of it.

    Parameters
    ----------
    segment
        A file in the cluster's ``pg_wal``; that may be a link, as it is not followed.
    system_identifier
        The cluster's, as the segment has it.
    """
    path = Path(os.path.abspath(segment)).parents[1] / _CONTROL_FILE
    for _ in range(_TRIES):
        try:
            nonce = _nonce(path.read_bytes()[:_SECTOR], system_identifier)
        except OSError:
            return None
        if nonce is not None:
            return hashlib.sha256(b"fsbackup wal identity\0" + nonce).digest()
    return None


def _nonce(data: bytes, system_identifier: int) -> bytes | None:
    """Return what is before the checksum of a control file, which PostgreSQL keeps last whatever else is there."""
    if len(data) < _SECTOR:
        return None
    system, version = struct.unpack_from(_HEAD, data)
    if system != system_identifier or version not in _VERSIONS:
        return None
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for at, byte in enumerate(data[:-4]):
        if at % 4 == 0 and at > _NONCE and struct.unpack_from("=I", data, at) == (crc ^ 0xFFFFFFFF,):
            nonce = data[at - _NONCE : at]
            return nonce if any(nonce) else None  # pg_resetwal cannot guess it
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return None


@cache
def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]
    return table
