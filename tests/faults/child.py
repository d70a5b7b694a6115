"""One operation in a process of its own, which says what it was told is done, until it ends or is killed."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.retention import Retention
from tests.faults.botocore_cache import cache_botocore_models
from tests.faults.disk import Disk
from tests.faults.plan import FOLDER, KEYS, Plan, Step
from tests.replication.child import kill
from tests.replication.rig import Places

_CONTEXT = multiprocessing.get_context("forkserver")
#: Of three copies, so that one replica may be in trouble.
MIN_COPIES = 2
#: Everything but the newest of the series goes, however young.
RULE = Retention(max_age=timedelta(microseconds=1), destinations=(f"{FOLDER}/{{now:%Y-%m-%d}}.sql",))

#: What was done, to which key, on which replicas (for an upload: those that confirmed).
Event = tuple[str, str, tuple[str, ...]]
Say = Callable[[str, str, tuple[str, ...]], None]


@dataclass(frozen=True)
class Task:
    """Everything that the process needs to know."""

    plan: Plan
    places: Places
    sources: Path
    targets: Path
    timeout: float = 10.0

    def store(self) -> ReplicatedStorage:
        """Return the set, with the retention that the plan wants."""
        rules = dict.fromkeys(self.plan.ruled, RULE)
        return self.places.store(min_copies=MIN_COPIES, retention=rules, timeout=self.timeout)


def warm_up() -> None:
    """Called once in the process that all children are forked from."""
    from tests.servers.endpoint import S3Endpoint, client

    cache_botocore_models(pytest.MonkeyPatch())
    client(S3Endpoint("none", "http://127.0.0.1:1", "id", "made-up-for-this-test", "us-east-1", "bucket"))


def _act(task: Task, pipe: Connection) -> None:
    store = task.store()
    steps = [moment for moment in task.plan.kill if isinstance(moment, Step)]
    pipe.send("ready")
    pipe.recv()
    disk = Disk(steps[0]) if steps else None
    try:
        _OPERATIONS[task.plan.operation](store, task, lambda *event: pipe.send(event))
    except Exception:  # noqa: BLE001 - whatever it is, the round shows it
        pipe.send(("raised", traceback.format_exc(), ()))
    if disk is not None:
        disk.end()


def _upload(store: ReplicatedStorage, task: Task, say: Say) -> None:
    overwrite = task.plan.operation == "overwrite"
    items = [
        (task.sources / Path(planned.key).name, planned.key)
        for planned in task.plan.objects_planned
        if planned.changes
    ]
    for outcome in store.replicate_many(items, overwrite=overwrite):
        assert outcome.report is not None, outcome.error
        ok = tuple(name for name, result in outcome.report.replicas.items() if result.ok)
        say("stored" if outcome.report else "not stored", outcome.item.key, ok)


def _delete(store: ReplicatedStorage, task: Task, say: Say) -> None:
    for planned in task.plan.objects_planned:
        if planned.changes:
            report = store.remove(planned.key)
            ok = tuple(name for name, result in report.replicas.items() if result.ok)
            say("deleted" if report else "not deleted", planned.key, ok)


def _restore(store: ReplicatedStorage, task: Task, say: Say) -> None:
    if task.plan.tree:
        report = store.restore_tree(
            FOLDER,
            task.targets,
            on_object=lambda each: say("restored" if each.report else "not restored", each.key, ()),
        )
        assert report, report.as_dict()
        return
    for key in KEYS:
        store.restore(key, task.targets / Path(key).name)
        say("restored", key, ())


def _repair(store: ReplicatedStorage, task: Task, say: Say) -> None:  # noqa: ARG001 - as all the others
    store.repair(deep=True, on_step=lambda step: _tell(step.action.kind, step.outcome, step.action, say))


def _tell(kind: str, outcome: str, action: Any, say: Say) -> None:
    say(f"{kind}: {outcome}", action.key, (action.backend,) if action.backend else ())


def _prune(store: ReplicatedStorage, task: Task, say: Say) -> None:  # noqa: ARG001 - as all the others
    store.prune(dry_run=False, on_step=lambda step: say(step.outcome, step.key, (step.backend,)))


_OPERATIONS: dict[str, Callable[[ReplicatedStorage, Task, Say], None]] = {
    "upload": _upload,
    "overwrite": _upload,
    "delete": _delete,
    "restore": _restore,
    "repair": _repair,
    "prune": _prune,
}


class Running:
    """The process, ready and waiting for `go`."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self._process, self._pipe = process, pipe
        assert pipe.recv() == "ready"

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def go(self) -> None:
        """Have it begin."""
        self._pipe.send("go")

    def join(self, seconds: float) -> int | None:
        """Wait for its end, at most so long; return its exit code, None while it runs."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """End it as kill -9 does."""
        kill(self._process)

    def said(self) -> list[Event]:
        """Return everything that it said before it ended."""
        events: list[Event] = []
        try:
            while self._pipe.poll():
                events.append(self._pipe.recv())
        except (EOFError, OSError):
            pass  # it has ended, perhaps in the middle of a word
        return events


@contextmanager
def running(task: Task) -> Iterator[Running]:
    """Run a task's operation in a child that does not outlive the block."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_act, args=(task, theirs))
    process.start()
    theirs.close()
    try:
        yield Running(process, ours)
    finally:
        kill(process)
        ours.close()
