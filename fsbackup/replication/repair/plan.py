"""What to do about one object: a pure decision from the evidence, each action with its reason in words.

A plan is one round: what only shows afterwards is decided by examining and planning again.
"""

from __future__ import annotations

from fsbackup.engine.records import ReplicaState
from fsbackup.errors import FsbackupError
from fsbackup.record import Manifest, Tombstone, version_order
from fsbackup.replication.classify import CopyState, ObjectStatus
from fsbackup.replication.repair.inspection import Inspection, WriteIntent
from fsbackup.replication.repair.report import Action, Kind, Unresolved

#: Seconds after which nobody is still at work on what was begun: a day, longer than any pause of a live writer.
SAFE_AGE = 86_400.0

_WHY: dict[CopyState, str] = {
    "missing": "it is missing",
    "stale": "it slept through a replacement",
    "size differs": "its size is wrong",
    "damaged": "it is damaged",
    "no manifest": "its data is not what the others' manifest says, and nothing proves it",
}


def plan(evidence: Inspection, *, adopt: bool = False, safe_age: float = SAFE_AGE) -> tuple[Action, ...]:
    """Return what to do about the object, and what has to be left and why; nothing where all is right.

    Parameters
    ----------
    evidence
        What is known of it.
    adopt
        Give data without a manifest on any replica one, where all copies are the same.
    safe_age
        Seconds after which an announcement that nothing came of is garbage.
    """
    return _Planner(evidence, adopt, safe_age).plan()


class _Planner:
    def __init__(self, evidence: Inspection, adopt: bool, safe_age: float) -> None:
        self._evidence = evidence
        self._verdict = evidence.verdict
        self._key = evidence.verdict.key
        self._adopt = adopt
        self._safe_age = safe_age

    def plan(self) -> tuple[Action, ...]:
        verdict = self._verdict
        finishing = self._finish()
        if finishing:
            return finishing
        if "conflict" in verdict.states.values():
            return (self._leave("conflict", f"two contents under one generation: {said(verdict)}"),)
        if isinstance(verdict.latest, Tombstone):
            return (*self._delete(verdict.latest), *self._away())
        if verdict.latest is None:
            return (*self._unproven(), *self._clear())
        return (*self._restore(verdict.latest), *self._clear(), *self._away())

    def _finish(self) -> tuple[Action, ...]:
        """Finish replacements whose data is in place; with two different ones a person has to decide."""
        ready = {
            name: each.manifest
            for name, each in self._evidence.intents.items()
            if each.manifest is not None and self._is_finished(name, each.manifest)
        }
        if len({manifest.sha256 for manifest in ready.values()}) > 1:
            return (self._leave("conflict", f"two replacements were begun at once: {', '.join(ready)}"),)
        return tuple(
            self._do("finish", name, f"its replacement by generation {manifest.generation} got as far as its data")
            for name, manifest in ready.items()
        )

    def _is_finished(self, name: str, announced: Manifest) -> bool:
        content, top = self._evidence.contents.get(name), self._verdict.latest
        if content is None or content.sha256 != announced.sha256:
            return False
        if top is None or version_order(announced) > version_order(top):
            return True
        own = self._verdict.replicas[name].manifest
        if not isinstance(top, Manifest) or top.generation != announced.generation:
            return False
        return top.sha256 == announced.sha256 and (own is None or own.sha256 != announced.sha256)

    def _delete(self, stone: Tombstone) -> tuple[Action, ...]:
        """Finish a delete; once every replica has, the tombstones go."""
        actions = []
        for name, finding in self._verdict.replicas.items():
            if finding.stat is not None and finding.record is None:
                why = f"deleted on {stone.deleted_at}, but nothing says that this is the data that was: see `rm`"
                actions.append(self._leave("no manifest", why, name))
            elif finding.stat is not None or finding.manifest is not None or finding.damaged:
                actions.append(self._do("delete", name, f"it was deleted on {stone.deleted_at}"))
        actions += self._clear()
        if not actions and not self._unknown():
            why = f"every replica has confirmed the delete of {stone.deleted_at}"
            actions.append(Action("forget delete", self._key, None, why))
        return tuple(actions)

    def _unproven(self) -> tuple[Action, ...]:
        """Decide about data for which no replica has a manifest."""
        having = [finding for finding in self._verdict.replicas.values() if finding.stat is not None]
        unknown = self._unknown()
        if not having:
            damaged = [f.store.name for f in self._verdict.replicas.values() if f.damaged]
            if not damaged:
                return self._away()
            if unknown:
                return (self._leave("away", f"cannot be mended before {' and '.join(unknown)} can be asked"),)
            return (self._leave("lost", f"all that is left is a damaged manifest ({', '.join(damaged)})"),)
        if not self._adopt:
            why = f"nothing proves it ({_names(having)}); adopt gives it a manifest where all copies are the same"
            return (self._leave("no manifest", why), *self._away())
        if unknown:
            return (self._leave("away", f"cannot be adopted before {' and '.join(unknown)} can be asked"),)
        return self._adoption(having)

    def _adoption(self, having: list[ReplicaState]) -> tuple[Action, ...]:
        contents = self._evidence.contents
        unread = [finding.store.name for finding in having if finding.store.name not in contents]
        if unread:
            return (self._leave("away", f"cannot be adopted before {' and '.join(unread)} can be read"),)
        if len({contents[finding.store.name].sha256 for finding in having}) > 1:
            return (self._leave("conflict", f"{_names(having)} hold different bytes without a manifest"),)
        why = f"there is no manifest, and all copies are the same ({_names(having)})"
        return tuple(self._do("adopt", finding.store.name, why) for finding in having)

    def _restore(self, top: Manifest) -> tuple[Action, ...]:
        """Bring every replica to the newest version."""
        actions = [
            action
            for name, finding in self._verdict.replicas.items()
            if (action := self._bring(name, finding, top)) is not None
        ]
        if "present" in self._verdict.states.values() or not actions:
            return tuple(actions)
        proving = [action for action in actions if action.kind == "write manifest"]
        if proving:
            return tuple(proving)  # then there is a replica to read from
        if any(finding.stat is not None for finding in self._verdict.replicas.values()):
            return tuple(actions)  # the good blocks of several bad copies may make the whole
        if unknown := self._unknown():
            return (self._leave("away", f"cannot be refilled before {' and '.join(unknown)} can be asked"),)
        return (self._leave("lost", f"no replica has its data: {said(self._verdict)}"),)

    def _bring(self, name: str, finding: ReplicaState, top: Manifest) -> Action | None:
        state, content = self._verdict.states[name], self._evidence.contents.get(name)
        if state in ("unknown", "expired"):
            return None
        if state == "present":
            if finding.holds(top):
                return None
            return self._do("write manifest", name, "its data is right, though touched since it was stored")
        if content is not None and content.sha256 == top.sha256:
            what = "damaged" if finding.damaged else "missing" if finding.record is None else "not of this data"
            return self._do("write manifest", name, f"its data is right, its manifest is {what}")
        if self._is_busy(name, top):
            return self._leave("busy", "somebody has announced a newer version and not finished it yet", name)
        detail = self._verdict.replicas[name].detail
        return self._do("refill", name, _WHY[state] + (f" ({detail})" if detail else ""))

    def _is_busy(self, name: str, top: Manifest) -> bool:
        announced = self._evidence.intents.get(name)
        newer = announced is not None and announced.manifest and announced.manifest.generation > top.generation
        return bool(newer) and not self._is_old(announced)

    def _clear(self) -> tuple[Action, ...]:
        """Clear announcements that say what is known already, or that nothing came of."""
        actions = []
        for name, each in self._evidence.intents.items():
            if self._is_done(name, each):
                actions.append(self._do("clear announcement", name, "what it announces is there"))
            elif self._is_old(each):
                actions.append(self._do("clear announcement", name, "it is old, and nothing came of it"))
        return tuple(actions)

    def _is_done(self, name: str, announced: WriteIntent) -> bool:
        top, finding = self._verdict.latest, self._verdict.replicas[name]
        if announced.manifest is None or top is None:
            return False
        if isinstance(top, Tombstone):
            return announced.manifest.generation <= top.generation
        return self._verdict.states[name] == "present" and finding.holds(announced.manifest)

    def _is_old(self, announced: WriteIntent | None) -> bool:
        return announced is not None and announced.age > self._safe_age

    def _away(self) -> tuple[Action, ...]:
        """Name the replicas that could not be asked."""
        return tuple(
            self._leave("away", _error(self._verdict.replicas[name].error), name) for name in self._unknown()
        )

    def _unknown(self) -> list[str]:
        return [name for name, state in self._verdict.states.items() if state == "unknown"]

    def _do(self, kind: Kind, backend: str, reason: str) -> Action:
        return Action(kind, self._key, backend, reason)

    def _leave(self, problem: Unresolved, reason: str, backend: str | None = None) -> Action:
        return Action("leave", self._key, backend, reason, problem)


def said(verdict: ObjectStatus) -> str:
    """Return what each replica has, in words."""
    return "; ".join(f"{name}: {replica.detail or replica.state}" for name, replica in verdict.replicas.items())


def _names(findings: list[ReplicaState]) -> str:
    return ", ".join(finding.store.name for finding in findings)


def _error(error: FsbackupError | None) -> str:
    return f"could not be examined: {error}" if error is not None else "could not be examined"
