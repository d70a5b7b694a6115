"""What the processes do: one operation each, by the engine's own functions."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable

from fsbackup.engine import versions
from fsbackup.engine.delete import delete
from fsbackup.engine.replicas import ReplicaSet
from fsbackup.engine.restore import copy_to
from fsbackup.engine.results import Report
from fsbackup.engine.source import BytesSource
from fsbackup.engine.survey import survey
from fsbackup.engine.upload import upload
from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest
from fsbackup.replication.prune.execute import delete_copy
from fsbackup.replication.repair import RepairOptions, RepairReport, repair
from tests.simulation.operation import KEY, Operation, Verb


async def perform(operation: Operation, targets: ReplicaSet) -> None:
    """Run the operation to its end, and note how it went."""
    try:
        await _PERFORM[operation.verb](operation, targets)
    except FsbackupError as error:
        operation.status, operation.error = "failed", error


async def _upload(operation: Operation, targets: ReplicaSet) -> None:
    assert operation.content is not None
    source = BytesSource(operation.content, "<simulated>")
    _note(operation, await upload(targets, KEY, source, overwrite=operation.verb == "replace"))


async def _delete(operation: Operation, targets: ReplicaSet) -> None:
    _note(operation, await delete(targets, KEY))


def _note(operation: Operation, report: Report) -> None:
    operation.status = "ok" if report else "failed"
    operation.confirmed = tuple(name for name, each in report.replicas.items() if each.ok)
    operation.error = None if report else report.failure()


async def _prune(operation: Operation, targets: ReplicaSet) -> None:
    """Delete one copy as `prune` does: where `min_copies` others, or all others, prove the newest version."""
    replicas = await survey(targets.stores, KEY)
    latest = versions.newest(replicas, targets.min_copies)
    own = replicas.pop(operation.target)
    proven = sum(each.holds(latest) for each in replicas) if isinstance(latest, Manifest) else 0
    if own.stat is not None and own.is_intact and proven >= min(targets.min_copies, len(replicas)):
        await delete_copy(own, KEY)
        operation.confirmed = (own.store.name,)
    operation.status = "ok"


async def _repair(operation: Operation, targets: ReplicaSet) -> None:
    await repair_all(targets, prefix=KEY, deep=operation.deep)
    operation.status = "ok"


async def repair_all(targets: ReplicaSet, *, prefix: str = "", deep: bool = True) -> RepairReport:
    """Repair the set; what is proven nowhere is adopted when the whole of it is repaired."""
    return await repair(targets, RepairOptions(prefix=prefix, deep=deep, adopt=not prefix))


async def _read(operation: Operation, targets: ReplicaSet) -> None:
    out = io.BytesIO()
    await copy_to(targets, KEY, out)
    operation.content, operation.status = out.getvalue(), "ok"


_PERFORM: dict[Verb, Callable[[Operation, ReplicaSet], Awaitable[None]]] = {
    "create": _upload,
    "replace": _upload,
    "delete": _delete,
    "prune": _prune,
    "repair": _repair,
    "read": _read,
}
