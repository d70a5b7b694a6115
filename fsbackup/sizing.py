"""Part size (the same for all replicas of an object) and block size (of its hashes). Pure arithmetic."""

from __future__ import annotations

from fsbackup.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: S3 multipart limit, the same for R2 and B2.
MAX_PARTS = 10_000
#: S3's smallest part except the last, the same for R2 and B2.
MIN_PART_SIZE = 5 * MIB
#: Eight parts of this size are 64 MiB, the memory of one upload.
DEFAULT_PART_SIZE = 8 * MIB
#: For a stream, whose size is not known: 10,000 parts of this size are 156 GiB.
STREAM_PART_SIZE = 16 * MIB
#: Parts planned at most: fewer than 10,000, for a file that grew since its size was read.
_PLANNED_PARTS = 9_000

#: Unit of verification and of range reads.
BLOCK_SIZE = MIB
#: Bytes that stores read at once, all the same: of one size, what one store has read into is room for another.
READ_PIECE = MIB
#: Most blocks of an object: keeps its manifest near 1 MiB (the hash of a block is 67 bytes of JSON).
MAX_BLOCKS = 16_384
#: Block size of a stream that is longer than MAX_BLOCKS blocks of BLOCK_SIZE.
STREAM_BLOCK_SIZE = 16 * MIB


def part_size(size: int | None, configured: int | None = None) -> int:
    """Return the part size in bytes for an object.

    Parameters
    ----------
    size
        The object's size in bytes, None for a stream of unknown length.
    configured
        The configured part size; the default is 8 MiB (16 MiB for a stream), more in whole MiB where 9,000 parts
        would not hold the object.

    Raises
    ------
    ConfigError
        When parts of the configured size would number more than 10,000.
    """
    if configured is None:
        least = -(-(size or 0) // _PLANNED_PARTS)
        default = STREAM_PART_SIZE if size is None else DEFAULT_PART_SIZE
        return max(default, -(-least // MIB) * MIB)
    if size is not None and size > configured * MAX_PARTS:
        raise ConfigError(
            f"part_size {configured} cuts {size} bytes into more than {MAX_PARTS} parts",
            hint="remove part_size: the default grows with the object",
        )
    return configured


def part_count(size: int, part: int) -> int:
    """Return the number of parts of `part` bytes; an empty object is one empty part."""
    return max(1, -(-size // part))


def block_size(size: int) -> int:
    """Return the block size in bytes: 1 MiB up to 16 GiB, then the power of two that keeps 16,384 blocks."""
    block = BLOCK_SIZE
    while size > block * MAX_BLOCKS:
        block *= 2
    return block
