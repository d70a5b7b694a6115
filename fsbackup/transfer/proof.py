"""Which blocks of some bytes are the ones that a manifest names. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fsbackup.manifest import Manifest
from fsbackup.transfer.hashing import BlockHasher

#: (start, end) of bytes within an object.
Run = tuple[int, int]


def right_runs(pieces: Sequence[bytes], start: int, end: int, manifest: Manifest | None) -> list[Run]:
    """Return the runs of right blocks in `pieces`, together the bytes from `start` (a block's) up to `end`.

    Without a manifest nothing proves them but their number. Of more bytes than were asked for nothing is right.
    """
    length = sum(map(len, pieces))
    if manifest is None or length > end - start:
        return [(start, end)] if length == end - start else []
    block = manifest.block_size
    hasher = BlockHasher(block)
    for piece in pieces:
        hasher.update(piece)
    runs: list[Run] = []
    for at, found in zip(range(start, end, block), hasher.blocks(), strict=False):
        stop = min(at + block, end)
        if found != manifest.blocks[at // block]:
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((at, stop))
    return runs


def gaps(runs: list[Run], start: int, end: int) -> list[Run]:
    """Return what of `start` to `end` the runs leave out."""
    edges = [start, *(edge for run in runs for edge in run), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
