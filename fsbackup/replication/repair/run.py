"""`repair`: every object that is not right everywhere made right from replicas that prove it, many at a time."""

from __future__ import annotations

from dataclasses import dataclass

from fsbackup.aio import for_each
from fsbackup.engine.breaker import CircuitBreaker
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.replication.portions import Part, Portion, questions
from fsbackup.replication.repair.orphans import clear_orphans, list_intents
from fsbackup.replication.repair.repairer import Repairer, RepairOptions
from fsbackup.replication.repair.report import OnStep, RepairReport, Step
from fsbackup.replication.walk import Unreachable, Walk

#: Objects in hand at once; their parts share the set's memory.
WORKERS = 16


async def repair(targets: ReplicaSet, options: RepairOptions, hear: OnStep | None = None) -> RepairReport:
    """Repair the objects at or below a prefix.

    Raises
    ------
    NoHealthyReplicaError
        When no replica can be listed.
    """
    mender = Repairer(targets, options, hear)
    # Who does not answer to this is not waited for again.
    pending, away = await list_intents(targets.stores, options.prefix, options.away or {})
    walk = Walk(targets.stores, options.prefix, unreachable=away)
    await for_each(questions(walk, pending=pending), mender.repair, WORKERS)
    return mender.report(await clean_up(targets, options, mender, walk.errors))


async def clean_up(
    targets: ReplicaSet, options: RepairOptions, mender: Repairer, errors: Unreachable
) -> Unreachable:
    """Clear leftovers, whose names say nothing of a prefix, and return who could not be listed at all."""
    if options.prefix:
        return errors
    there = [each for each in targets.stores if each.name not in errors and each.name not in mender.away]
    found = await clear_orphans(there, options.safe_age, mender.say, dry_run=options.dry_run)
    return {**errors, **found}


@dataclass(frozen=True, slots=True)
class RepairTask:
    """Repairs portions; see `fsbackup.replication.portions`. The options are those of `Options`."""

    dry_run: bool
    deep: bool
    adopt: bool
    safe_age: float

    async def __call__(
        self, targets: ReplicaSet, outages: CircuitBreaker, portion: Portion
    ) -> Part[RepairReport, Step]:
        """Mend a portion's objects."""
        heard: list[Step] = []
        options = RepairOptions("", self.dry_run, self.deep, self.adopt, portion.is_expired, None, self.safe_age)
        mender = Repairer(targets, options, heard.append, outages)
        await for_each(portion.asked(), mender.repair, WORKERS)
        return Part(mender.report({}), tuple(heard))
