"""How an object is cut: one part size for all its replicas, one block size for its hashes. Pure arithmetic."""

from __future__ import annotations

from fsbackup.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: S3 multipart limit, the same for R2 and B2.
MAX_PARTS = 10_000
#: S3's smallest part except the last, the same for R2 and B2.
MIN_PART_SIZE = 5 * MIB
#: Parts of this size keep eight of them, the memory of one upload, at 64 MiB.
DEFAULT_PART_SIZE = 8 * MIB
#: A stream's size is not known, and 10,000 parts of this size hold 156 GiB of it.
STREAM_PART_SIZE = 16 * MIB
#: Leaves room below 10,000 for a file that is measured a little short.
_PLANNED_PARTS = 9_000

#: Unit of verification and of range reads.
BLOCK_SIZE = MIB
#: Keeps a manifest near 1 MiB (a block's hash takes 67 bytes of JSON).
MAX_BLOCKS = 16_384
#: Block size of a stream that turns out longer than MAX_BLOCKS small blocks.
STREAM_BLOCK_SIZE = 16 * MIB


def part_size(size: int | None, wanted: int | None = None) -> int:
    """Return the part size in bytes for an object.

    Parameters
    ----------
    size
        The object's size in bytes, `None` when it is a stream of unknown length.
    wanted
        A part size set by configuration; the default is 8 MiB (16 MiB for a stream), grown in whole MiB
        where 9,000 parts would not hold the object.

    Raises
    ------
    ConfigError
        When `wanted` parts would number more than 10,000.
    """
    if wanted is None:
        least = -(-(size or 0) // _PLANNED_PARTS)
        default = STREAM_PART_SIZE if size is None else DEFAULT_PART_SIZE
        return max(default, -(-least // MIB) * MIB)
    if size is not None and size > wanted * MAX_PARTS:
        raise ConfigError(
            f"part_size {wanted} cuts {size} bytes into more than {MAX_PARTS} parts",
            hint="leave part_size out: it grows with the object",
        )
    return wanted


def part_count(size: int, part: int) -> int:
    """Return the number of parts of `part` bytes; an empty object is one empty part."""
    return max(1, -(-size // part))


def block_size(size: int) -> int:
    """Return the block size in bytes: 1 MiB up to 16 GiB, then the power of two that keeps 16,384 blocks."""
    block = BLOCK_SIZE
    while size > block * MAX_BLOCKS:
        block *= 2
    return block
