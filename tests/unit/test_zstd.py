"""What is compressed in jobs is one frame, as any other.

The readers of pandas and fsspec (the package `zstandard`) take the end of the first frame for that of the file.
"""

from __future__ import annotations

import io
import random

import pytest

from fsbackup.stages import zstd


@pytest.mark.parametrize("level", [1, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_a_stream_is_one_frame_of_at_most_the_bound(level: int, size: int) -> None:
    """Also where several jobs made it."""
    data, out = random.Random(size).randbytes(size), io.BytesIO()
    zstd.compressing(level, "x")(io.BytesIO(data), out)
    frame = zstd.library().ZstdDecompressor()
    assert frame.decompress(out.getvalue()) == data
    assert frame.eof
    assert frame.unused_data == b""
    assert len(out.getvalue()) <= zstd.bound(size)
