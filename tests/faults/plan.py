"""What a round is: a pure function of its kind and seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from tests.replication.rig import MIB, PART, content

Operation = Literal["upload", "overwrite", "delete", "restore", "repair", "prune"]
Kind = Literal["kill", "damage", "outage", "mixed"]
Damage = Literal["flip", "truncate", "extend", "swap", "delete manifest", "edit manifest"]
Outage = Literal["refuse", "busy", "lose answer", "cut", "stall", "throttle"]
Harm = Literal["missing", "rotten", "short", "stale", "no manifest", "no data"]

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
DAMAGES: tuple[Damage, ...] = get_args(Damage)
OUTAGES: tuple[Outage, ...] = get_args(Outage)
HARMS: tuple[Harm, ...] = get_args(Harm)
REPLICAS = ("local", "r2", "b2")
#: All objects of a round, of one series, so that the last of them is what retention keeps.
FOLDER = "backups/full"
KEYS = tuple(f"{FOLDER}/2025-10-0{day}.sql" for day in range(1, 4))
#: Empty, tiny, one block, several blocks, and in `LARGE` several parts.
SIZES = (0, 1, 3000, 3000, 70_000, MIB + 7)
LARGE = (PART + 100, 2 * PART + 1)
#: About how many requests an S3 replica gets, and how many steps a disk: a few kills come too late on purpose.
REQUESTS: dict[Operation, int] = {
    "upload": 16, "overwrite": 30, "delete": 22, "restore": 11, "repair": 32, "prune": 36,
}  # fmt: skip
STEPS: dict[Operation, int] = {
    "upload": 24, "overwrite": 34, "delete": 20, "restore": 20, "repair": 24, "prune": 11,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Version:
    """One version's content, by its size and the seed of its bytes."""

    size: int
    seed: int

    @property
    def data(self) -> bytes:
        """The bytes."""
        return content(self.size, self.seed)


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """An object: what it is before the operation, and what the operation would make of it (None: nothing)."""

    key: str
    before: Version | None
    after: Version | None
    harm: Harm | None = None

    @property
    def changes(self) -> bool:
        """Whether the operation is about it."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Request:
    """A moment: the n-th request that a replica's proxy sees, before the server gets it or after it answered."""

    replica: str
    number: int
    side: Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Step:
    """A moment: the n-th step on the disk; with `power` what was not yet synced is lost too."""

    number: int
    power: bool


@dataclass(frozen=True, slots=True)
class Delay:
    """A moment: so many seconds after the start."""

    seconds: float


Moment = Request | Step | Delay


@dataclass(frozen=True, slots=True)
class Plan:
    """One round.

    Attributes
    ----------
    kind, seed, operation
        Which round it is, and what is done in it.
    swapped
        Whether B2 is at the server that R2 is at otherwise.
    things
        The objects.
    kill
        When the process is killed: at the first of these moments. Empty: never.
    victim
        The replica that gets the damage or the outage, None without one.
    damage, outage, at
        What it gets, and when.
    harmed
        The replica for repair to mend.
    ruled
        The replicas with a retention, by which all but the newest object goes.
    tree, earlier
        Whether a restore is of the whole tree, and whether there are files already.
    """

    kind: Kind
    seed: int
    operation: Operation
    swapped: bool
    objects_planned: tuple[ObjectPlan, ...]
    kill: tuple[Moment, ...] = ()
    victim: str | None = None
    damage: Damage | None = None
    outage: Outage | None = None
    at: Request | None = None
    harmed: str | None = None
    ruled: tuple[str, ...] = ()
    tree: bool = False
    earlier: bool = False

    @property
    def troubles(self) -> set[str]:
        """What goes wrong in it: its damage, its outage, and what its kill waits for."""
        named = {trouble for trouble in (self.damage, self.outage) if trouble}
        return named | {type(moment).__name__ for moment in self.kill}

    @property
    def chance(self) -> random.Random:
        """The source of further details; always the same one."""
        return random.Random(f"details of {self.kind}/{self.seed}")


def plan_of(kind: Kind, seed: int) -> Plan:
    """Return the round of a kind and a seed; any 36 seeds in a row have every operation with every trouble."""
    chance = random.Random(f"{kind}/{seed}")
    operation = OPERATIONS[seed % len(OPERATIONS)]
    turn = seed // len(OPERATIONS)
    victim = harmed = None
    if operation == "repair":
        harmed = chance.choice(REPLICAS)
    damage = DAMAGES[turn % len(DAMAGES)] if kind in ("damage", "mixed") else None
    outage = OUTAGES[turn % len(OUTAGES)] if kind == "outage" else None
    if damage or outage:
        # A disk that is slow or talks nonsense is another matter; one that is away is not.
        among = REPLICAS if outage in (None, "refuse") else REPLICAS[1:]
        victim = chance.choice([each for each in among if each != harmed])
    return Plan(
        kind=kind,
        seed=seed,
        operation=operation,
        swapped=chance.random() < 0.5,
        objects_planned=_things(operation, chance),
        kill=_kill(operation, harmed, chance) if kind in ("kill", "mixed") else (),
        victim=victim,
        damage=damage,
        outage=outage,
        at=_request(operation, chance) if victim else None,
        harmed=harmed,
        ruled=_some_of(REPLICAS, chance) if operation == "prune" else (),
        tree=chance.random() < 0.5,
        earlier=chance.random() < 0.5,
    )


def _things(operation: Operation, chance: random.Random) -> tuple[ObjectPlan, ...]:
    """Return the objects: the last one is in no operation's way, the others are what it is about."""
    large = chance.choice(KEYS[:-1]) if chance.random() < 0.3 else None
    made = []
    for number, key in enumerate(KEYS):
        size = chance.choice(LARGE) if key == large else chance.choice(SIZES)
        # Versions of one size are the hardest to tell apart.
        other = size if chance.random() < 0.6 else chance.choice(SIZES)
        old, new = Version(size, 2 * number), Version(other, 2 * number + 1)
        # Two seeds give the same bytes only where there are hardly any.
        old = old if old.size > 1 or old.data != new.data else Version(size + 1, 2 * number)
        made.append(ObjectPlan(key, old, old) if key == KEYS[-1] else _thing(operation, key, old, new, chance))
    return tuple(made)


def _thing(operation: Operation, key: str, old: Version, new: Version, chance: random.Random) -> ObjectPlan:
    if operation == "upload":
        return ObjectPlan(key, None, new)
    if operation == "overwrite":
        return ObjectPlan(key, old, new)
    if operation == "delete":
        return ObjectPlan(key, old, None)
    if operation == "repair":
        harm = chance.choice(HARMS)
        # There is nothing to cut off or turn over in an empty one.
        harm = "missing" if harm in ("rotten", "short") and not old.size else harm
        return ObjectPlan(key, old, new if harm == "stale" else old, harm)
    return ObjectPlan(key, old, old)


def _kill(operation: Operation, harmed: str | None, chance: random.Random) -> tuple[Moment, ...]:
    on_disk = operation != "repair" or harmed == "local"
    kind = chance.choices(["request", "everywhere", "step", "delay"], [45, 15, 25 if on_disk else 0, 15])[0]
    if kind == "step":
        return (Step(chance.randint(1, STEPS[operation]), chance.random() < 0.5),)
    if kind == "delay":
        return (Delay(chance.uniform(0.02, 0.4)),)
    one = _request(operation, chance, harmed)
    return (one,) if kind == "request" else (one, Step(chance.randint(1, STEPS[operation]), chance.random() < 0.5))


def _request(operation: Operation, chance: random.Random, harmed: str | None = None) -> Request:
    replica = harmed if harmed in REPLICAS[1:] and chance.random() < 0.7 else chance.choice(REPLICAS[1:])
    side: Literal["before", "after"] = "before" if chance.random() < 0.5 else "after"
    return Request(str(replica), chance.randint(1, REQUESTS[operation]), side)


def _some_of(names: tuple[str, ...], chance: random.Random) -> tuple[str, ...]:
    return tuple(sorted(chance.sample(names, chance.randint(1, len(names)))))
