"""Part and block sizes, at every boundary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsbackup import sizing
from fsbackup.errors import ConfigError
from fsbackup.sizing import GIB, MIB

TIB = 1 << 40
_PLANNED = 9_000 * sizing.DEFAULT_PART_SIZE
_BLOCKS = sizing.BLOCK_SIZE * sizing.MAX_BLOCKS

_SIZES = st.one_of(
    st.integers(0, 5 * TIB),
    # Around every size at which a part or a block grows.
    st.builds(lambda n, d: 9_000 * n * MIB + d, st.integers(1, 600), st.integers(-2, 2)),
    st.builds(lambda n, d: (_BLOCKS << n) + d, st.integers(0, 9), st.integers(-2, 2)),
)


@given(_SIZES)
def test_parts_hold_the_object(size: int) -> None:
    """Any object up to 5 TiB has at most 9,000 parts, of whole MiB and within the limits of S3."""
    part = sizing.part_size(size)
    assert part % MIB == 0
    assert sizing.DEFAULT_PART_SIZE <= part <= 5 * GIB
    assert sizing.part_count(size, part) <= 9_000 < sizing.MAX_PARTS
    assert (sizing.part_count(size, part) - 1) * part < max(size, 1) <= sizing.part_count(size, part) * part


@given(_SIZES)
def test_parts_grow_no_earlier_than_needed(size: int) -> None:
    """A part is larger than the default only where parts of one MiB less would be too many."""
    part = sizing.part_size(size)
    assert part == sizing.DEFAULT_PART_SIZE or sizing.part_count(size, part - MIB) > 9_000


@pytest.mark.parametrize(
    ("size", "part"),
    [
        (0, 8 * MIB),
        (1, 8 * MIB),
        (_PLANNED, 8 * MIB),
        (_PLANNED + 1, 9 * MIB),
        (5 * TIB, 583 * MIB),
        (None, 16 * MIB),
    ],
)
def test_part_size(size: int | None, part: int) -> None:
    """The sizes at which the result changes."""
    assert sizing.part_size(size) == part


@pytest.mark.parametrize(
    ("size", "part", "count"),
    [(0, 8, 1), (1, 8, 1), (7, 8, 1), (8, 8, 1), (9, 8, 2), (16, 8, 2), (17, 8, 3), (5 * TIB, 583 * MIB, 8_993)],
)
def test_part_count(size: int, part: int, count: int) -> None:
    """The last part may be shorter, and an empty object is one empty part."""
    assert sizing.part_count(size, part) == count


@given(st.integers(5 * MIB, 5 * GIB), st.integers(-3, 3))
def test_configured_part_size(part: int, beyond: int) -> None:
    """A configured part size is used, and refused where it makes more than 10,000 parts."""
    size = part * sizing.MAX_PARTS + beyond
    if beyond > 0:
        with pytest.raises(ConfigError, match="more than 10000 parts"):
            sizing.part_size(size, part)
    else:
        assert sizing.part_size(size, part) == part
        assert sizing.part_count(size, part) <= sizing.MAX_PARTS
    assert sizing.part_size(None, part) == part


@given(_SIZES)
def test_blocks_keep_a_manifest_small(size: int) -> None:
    """Blocks are 1 MiB, or the power of two that keeps their hashes (67 bytes each) near 1 MiB."""
    block = sizing.block_size(size)
    assert block & (block - 1) == 0
    assert size <= block * sizing.MAX_BLOCKS
    assert block == sizing.BLOCK_SIZE or size > (block // 2) * sizing.MAX_BLOCKS
    assert sizing.MAX_BLOCKS * 67 < 1.1 * MIB


@pytest.mark.parametrize(
    ("size", "block"),
    [(0, MIB), (16 * GIB, MIB), (16 * GIB + 1, 2 * MIB), (32 * GIB, 2 * MIB), (5 * TIB, 512 * MIB)],
)
def test_block_size(size: int, block: int) -> None:
    """The sizes at which the result changes."""
    assert sizing.block_size(size) == block
