"""How long a read follows an object that is replaced meanwhile, and where it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fsbackup.engine.pursuit import Pursuit
from fsbackup.errors import IntegrityError, NoHealthyReplicaError

pytestmark = pytest.mark.asyncio


def _reader(content: str) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(sha256=content), plan=SimpleNamespace(key="k"))


def _pursuit(stall: float) -> Pursuit:
    targets: Any = SimpleNamespace(stall=stall)
    return Pursuit(targets)


async def test_no_other_version_explains_the_error() -> None:
    """Then it is raised as it is."""
    with pytest.raises(IntegrityError, match="damaged"):
        _pursuit(10).follow(_reader("a"), None, IntegrityError("damaged"))


async def test_two_damaged_contents_in_turn_are_damage() -> None:
    """A read that goes back and forth between them ends soon, with the error that it had."""
    pursuit, error, one, other = _pursuit(10), IntegrityError("damaged"), _reader("a"), _reader("b")
    for _ in range(4):
        assert pursuit.follow(one, other, error) is other
        one, other = other, one
    with pytest.raises(IntegrityError, match="damaged"):
        pursuit.follow(one, other, error)


async def test_some_versions_are_followed_whatever_the_time() -> None:
    """One read of a large object takes longer than any limit."""
    pursuit = _pursuit(0)
    for number in range(3):
        pursuit.follow(_reader(f"{number}"), _reader(f"{number + 1}"), IntegrityError("damaged"))
    with pytest.raises(NoHealthyReplicaError, match="replaced faster"):
        pursuit.follow(_reader("3"), _reader("4"), IntegrityError("damaged"))
