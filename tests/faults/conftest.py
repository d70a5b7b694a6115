"""What the rounds share: servers that answer, and botocore's models in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.botocore_cache import cache_botocore_models


@pytest.fixture(scope="session", autouse=True)
def _quick_clients() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cache_botocore_models(patch)
        yield
