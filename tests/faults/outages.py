"""One replica away, busy, cut off, silent or slow while the operation runs."""

from __future__ import annotations

from pathlib import Path

from tests.faults.plan import Plan
from tests.replication.raw_replicas import RawDisk
from tests.replication.rig import ReplicaRig
from tests.servers.faults import Drop, Fault, LoseResponse, Refuse, Stall, Status, Throttle


def begin_outage(rig: ReplicaRig, plan: Plan) -> None:
    """Have the victim fail from the planned request on; a disk is away from the start."""
    assert plan.victim is not None
    assert plan.at is not None
    if plan.victim == "local":
        rig.base.rename(_away(rig))
        rig.base.write_bytes(b"in the way")
        return
    fault, times = _fault(plan)
    rig.proxies[plan.victim].add(fault, first=plan.at.number, times=times)


def end_outage(rig: ReplicaRig) -> None:
    """Have everybody back."""
    for proxy in rig.proxies.values():
        proxy.clear()
        proxy.cut_connections()
    if away(rig):
        rig.base.unlink()
        _away(rig).rename(rig.base)


def away(rig: ReplicaRig) -> RawDisk | None:
    """Return an eye for the disk while it is away."""
    return RawDisk(_away(rig)) if _away(rig).exists() else None


def _away(rig: ReplicaRig) -> Path:
    return rig.base.with_name("away")


def _fault(plan: Plan) -> tuple[Fault, int | None]:
    """Return what happens, and to how many requests (None: to all from then on)."""
    chance = plan.chance
    half_way = {"request_bytes" if chance.random() < 0.5 else "answer_bytes": chance.choice([0, 0, 100, 2000])}
    if plan.outage == "refuse":
        return Refuse(), None
    if plan.outage == "busy":
        return Status(503, "SlowDown"), chance.randint(1, 4)
    if plan.outage == "lose answer":
        return LoseResponse(), chance.randint(1, 3)
    if plan.outage == "cut":
        return Drop(**half_way), chance.randint(1, 3)
    if plan.outage == "stall":
        return Stall(**half_way), 1
    # All of it takes about a second, whatever its size.
    rate = max(
        100_000,
        sum(each.size for planned in plan.objects_planned for each in (planned.before, planned.after) if each),
    )
    return Throttle(up=rate, down=rate), None
