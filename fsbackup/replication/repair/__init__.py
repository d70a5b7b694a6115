"""`repair`: make right what `verify` finds, from replicas that prove it.

One object takes up to five rounds. In each round `run.Repairer` calls, in this order:

- `fsbackup.replication.inspect.Inspector`: what every replica has;
- `inspection.inspect_object`: the write intents, and the content of data that no manifest proves yet;
- `plan.plan`: what to do, a pure decision in which every action has its reason;
- `execute.RoundExecutor`: the actions, all at once.

What a round brings to light is decided in the next round. Repair takes no lock. Every action first reads again
what the plan was based on, and ends with `ConflictError` if it changed: another writer's version counts. An action
that replaces data announces it with a write intent, as an upload does: a crash leaves the old copy, or the new one
with its intent, which the next repair finishes. `orphans` removes what unfinished writes left behind, once per
set.

`run.repair` lists the set and repairs many objects at once, `run.repair_with` in batches that an executor runs;
`report` has the results.
"""

from fsbackup.replication.repair.report import Action, RepairReport, Step
from fsbackup.replication.repair.run import RepairOptions, repair, repair_with

__all__ = ["Action", "RepairOptions", "RepairReport", "Step", "repair", "repair_with"]
