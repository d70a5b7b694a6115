"""Which blocks of some bytes are the ones that a manifest names. Pure."""

from __future__ import annotations

import hashlib

from fsbackup.manifest import Manifest

#: (start, end) of bytes within an object.
Run = tuple[int, int]


def right_runs(data: bytes, start: int, end: int, manifest: Manifest | None) -> list[Run]:
    """Return the runs of right blocks in `data`, which should be the bytes from `start` (a block's) up to `end`.

    Without a manifest nothing proves them but their number.
    """
    if manifest is None:
        return [(start, end)] if len(data) == end - start else []
    block, view = manifest.block_size, memoryview(data)
    runs: list[Run] = []
    for at in range(start, end, block):
        stop = min(at + block, end)
        if hashlib.sha256(view[at - start : stop - start]).hexdigest() != manifest.blocks[at // block]:
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
