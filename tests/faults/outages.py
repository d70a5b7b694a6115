"""One replica away, busy, cut off, silent or slow while the operation runs."""

from __future__ import annotations

from pathlib import Path

from tests.faults.plan import Plan
from tests.replication.eyes import DiskEye
from tests.replication.world import World
from tests.servers.faults import Drop, Fault, LoseResponse, Refuse, Stall, Status, Throttle


def begin_outage(world: World, plan: Plan) -> None:
    """Have the victim fail from the planned request on; a disk is away from the start."""
    assert plan.victim is not None
    assert plan.at is not None
    if plan.victim == "local":
        world.base.rename(_away(world))
        world.base.write_bytes(b"in the way")
        return
    fault, times = _fault(plan)
    world.proxies[plan.victim].add(fault, first=plan.at.number, times=times)


def end_outage(world: World) -> None:
    """Have everybody back."""
    for proxy in world.proxies.values():
        proxy.clear()
        proxy.cut_connections()
    if away(world):
        world.base.unlink()
        _away(world).rename(world.base)


def away(world: World) -> DiskEye | None:
    """Return an eye for the disk while it is away."""
    return DiskEye(_away(world)) if _away(world).exists() else None


def _away(world: World) -> Path:
    return world.base.with_name("away")


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
    rate = max(100_000, sum(each.size for thing in plan.things for each in (thing.before, thing.after) if each))
    return Throttle(up=rate, down=rate), None
