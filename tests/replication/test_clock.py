"""A machine whose clock is wrong makes no new version: its generation would outrank all others, or none."""

from __future__ import annotations

import pytest

from fsbackup.errors import ClockError
from tests.replication.rig import ReplicaRig
from tests.servers.faults import WrongDate

KEY = "backups/db.dump"
YEAR = 365 * 86_400.0


def set_clocks(rig: ReplicaRig, r2: float, b2: float) -> None:
    """Have the services be so many seconds ahead of this machine."""
    for name, seconds in {"r2": r2, "b2": b2}.items():
        rig.proxies[name].add(WrongDate(seconds))


@pytest.mark.parametrize(("seconds", "words"), [(-YEAR, "ahead of"), (400.0, "7 minutes behind")])
def test_a_wrong_clock_writes_nothing(rig: ReplicaRig, seconds: float, words: str) -> None:
    """It is said, with the services that say so; what is stored already is success, and can be read."""
    assert rig.store().replicate(rig.file(b"old", "old"), KEY).status == "complete"
    set_clocks(rig, seconds, seconds)
    store = rig.store()
    new = rig.file(b"new", "new")
    with pytest.raises(ClockError, match=f"clock of this machine is .*{words} what r2, b2 say") as caught:
        store.replicate(new, KEY, overwrite=True)
    assert "NTP" in str(caught.value)
    [result] = store.replicate_many([(new, "backups/other")])
    assert isinstance(result.error, ClockError)
    for raw in rig.raw_replicas.values():
        assert raw.get(KEY) == b"old"
        assert raw.get("backups/other") is None
    assert store.replicate(rig.tmp / "old", KEY).replicas["r2"].already
    assert store.read(KEY) == b"old"


@pytest.mark.parametrize(("r2", "b2"), [(YEAR, 0.0), (0.0, -YEAR), (290.0, -YEAR)])
def test_a_service_whose_clock_is_wrong_stops_nobody(rig: ReplicaRig, r2: float, b2: float) -> None:
    """While another one agrees with this machine."""
    set_clocks(rig, r2, b2)
    assert rig.store().replicate(rig.file(b"new"), KEY).status == "complete"


def test_data_is_not_adopted_by_a_wrong_clock(rig: ReplicaRig) -> None:
    """Its manifest would get a generation by that clock."""
    for name in ("local", "r2", "b2"):
        rig.raw_replicas[name].put(KEY, b"by another program")
    set_clocks(rig, -YEAR, -YEAR)
    report = rig.store().repair(adopt=True)
    assert report.status == "failed"
    assert "clock of this machine" in str(report.steps[0].error)
    assert all(raw.manifest(KEY) is None for raw in rig.raw_replicas.values())
