"""What is compressed is what any program for Zstandard reads, frame by frame."""

from __future__ import annotations

import errno
import io
import random
import threading
from collections.abc import Iterator

import pytest

from fsbackup.stages import zstd


@pytest.mark.parametrize("level", [1, 4, 5])
@pytest.mark.parametrize(("size", "frames"), [(0, 1), (1, 1), (4 << 20, 2), (9 << 20, 5)])
def test_a_stream_is_frames_in_order_of_at_most_the_bound(level: int, size: int, frames: int) -> None:
    """One where it is short; with a checksum in each."""
    data, out = random.Random(size).randbytes(size), io.BytesIO()
    zstd.compressing(level, "x")(io.BytesIO(data), out)
    assert len(out.getvalue()) <= zstd.bound(size)
    assert list(contents(out.getvalue())) == ([len(data)] if level > 4 else lengths(size, frames))
    plain = io.BytesIO()
    zstd.decompressing()(io.BytesIO(out.getvalue()), plain)
    assert plain.getvalue() == data


def lengths(size: int, frames: int) -> list[int]:
    """Return the bytes that each of so many frames has: all but the last 2 MiB."""
    return [2 << 20] * (frames - 1) + [size - (frames - 1) * (2 << 20)]


def contents(data: bytes) -> Iterator[int]:
    """Return how many bytes each frame has, all with a checksum."""
    while data:
        assert data[4] & 4, "no checksum"
        frame = zstd.library().ZstdDecompressor()
        yield len(frame.decompress(data))
        assert frame.eof
        data = frame.unused_data


def test_a_stream_that_fails_ends_what_compresses_it() -> None:
    """With its error, and without a thread that goes on."""

    class Failing(io.RawIOBase):
        count = 0

        def read(self, length: int = -1, /) -> bytes:
            self.count += 1
            if self.count > 20:
                raise OSError(errno.EIO, "rotten")
            return bytes(length)

    with pytest.raises(OSError, match="rotten"):
        zstd.compressing(3, "x")(Failing(), io.BytesIO())
    assert not [each for each in threading.enumerate() if each.name.startswith("fsbackup-frame")]
