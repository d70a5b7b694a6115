"""The places of the PostgreSQL tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres.segments import Clouds


@pytest.fixture
def clouds(tmp_path: Path) -> Clouds:
    """An empty archive on two disks, one of which must confirm."""
    return Clouds(tmp_path)
