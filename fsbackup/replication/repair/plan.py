"""What to do about one object: a pure decision from its inspection; each action has its reason in words.

A plan covers one round. What the round brings to light is planned after the next inspection.

What `min_copies` replicas have is brought to every other replica. What fewer have destroys nothing that may be
confirmed elsewhere: neither an older version while a replica does not answer, nor other content under the same
generation within a day, when its writer may still be at work. A version above the newest, or a delete, that too
few replicas have gives way after that day. Where a generation is of the future, or outranks a later date that it
does not descend from, a clock was wrong or somebody forged it: no version gives way to it, and a person decides.
Where a newer version of fsbackup wrote a record or a write intent on any replica, nothing is done on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from fsbackup import clock
from fsbackup.engine import intents, versions
from fsbackup.engine.intents import SAFE_AGE, Intent
from fsbackup.engine.records import CopyState, ReplicaState
from fsbackup.errors import FsbackupError
from fsbackup.keys import ShortenedName
from fsbackup.record import Manifest, Record, Tombstone, version_order
from fsbackup.replication.classify import ObjectStatus
from fsbackup.replication.repair.inspection import Inspection
from fsbackup.replication.repair.report import Action, Kind, Unresolved

_REASONS: dict[CopyState, str] = {
    "missing": "the copy is missing",
    "stale": "an older version: it missed a replacement",
    "size differs": "the size is wrong",
    "damaged": "the copy is damaged",
    "no manifest": "it has no manifest, and its data is not the version that the other replicas prove",
    "conflict": "it has other content under the same generation, which lost",
    "unconfirmed": "it has a version that was never confirmed",
}
_STORED = "the version that it announces is stored"
#: Why a version does not give way.
_DOUBTFUL = (
    "the version that outranks it is of the future, or older by its date: a clock was wrong, or it is forged"
)


def plan(inspection: Inspection, *, adopt: bool = False, safe_age: float = SAFE_AGE) -> tuple[Action, ...]:
    """Return what to do about the object, and what to leave and why; nothing where every replica is right.

    Parameters
    ----------
    inspection
        What is known of the object.
    adopt
        Write a manifest for data that has none on any replica, where all copies are the same.
    safe_age
        Seconds after which a write intent without a result is abandoned.
    """
    return _Planner(inspection, adopt, safe_age).plan()


class _Planner:
    def __init__(self, inspection: Inspection, adopt: bool, safe_age: float) -> None:
        self._inspection = inspection
        self._status = inspection.status
        self._key = inspection.status.key
        self._adopt = adopt
        self._safe_age = safe_age
        self._now = clock.now()

    def plan(self) -> tuple[Action, ...]:
        status = self._status
        if newer := self._leave_to_newer():
            return newer
        finishing = self._finish_replacements()
        if finishing:
            return finishing
        if isinstance(status.latest, Tombstone):
            return (*self._finish_delete(status.latest), *self._report_unreachable())
        if status.latest is None:
            return (*self._adopt_data(), *self._clear_intents())
        return (*self._refill(status.latest), *self._clear_intents(), *self._report_unreachable())

    def _leave_to_newer(self) -> tuple[Action, ...]:
        """Leave the whole object where a newer version of fsbackup wrote a record of it."""
        found = {name: each.error for name, each in self._status.replicas.items() if each.is_newer}
        found |= {name: each.newer for name, each in self._all_intents() if each.newer}
        return tuple(self._leave("newer", error.reason, name) for name, error in found.items() if error)

    def _finish_replacements(self) -> tuple[Action, ...]:
        """Finish replacements whose data is in place."""
        ready: dict[str, Manifest] = {}
        for name, intent in self._all_intents():
            if intent.manifest is not None and self._has_intended_data(name, intent.manifest):
                ready[name] = max(intent.manifest, ready.get(name, intent.manifest), key=version_order)
        return tuple(
            self._do("finish", name, f"the data of generation {manifest.generation} is there, its manifest is not")
            for name, manifest in ready.items()
        )

    def _all_intents(self) -> Iterator[tuple[str, Intent]]:
        """Yield every write intent with its backend's name."""
        for name, found in self._inspection.intents.items():
            for each in found:
                yield name, each

    def _has_intended_data(self, name: str, intended: Manifest) -> bool:
        """Tell whether a replica has the data of an intent that is newer than, or is, the newest version.

        Or of an older one, where the newest counts only by the manifest that stands over that data.
        """
        content, latest = self._inspection.contents.get(name), self._status.latest
        if content is None or content.sha256 != intended.sha256:
            return False
        if latest is None or version_order(intended) > version_order(latest):
            return True
        own = self._status.replicas[name].manifest
        if not isinstance(latest, Manifest):
            return False
        if latest.generation != intended.generation:
            return self._stands_for_lost_data(name, latest)
        return latest.sha256 == intended.sha256 and (own is None or own.sha256 != intended.sha256)

    def _stands_for_lost_data(self, name: str, latest: Manifest) -> bool:
        """Tell whether the newest version counts by a manifest whose data another writer replaced since."""
        status, own = self._status, self._status.replicas[name]
        others = [each for each in status.replicas.values() if each is not own]
        is_lost = self._inspection.contents[name].sha256 != latest.sha256
        return own.claims(latest) and is_lost and versions.copies(others, latest) < status.needed

    def _finish_delete(self, tombstone: Tombstone) -> tuple[Action, ...]:
        """Delete on the replicas that missed it; once every replica has confirmed, remove the tombstones."""
        actions: list[Action] = []
        if not self._status.is_confirmed and (unreachable := self._unreachable()):
            why = (
                f"too few replicas say that it was deleted; to be decided when {' and '.join(unreachable)} answers"
            )
            return (self._leave("unreachable", why),)
        for name, replica in self._status.replicas.items():
            if replica.stat is not None and self._is_doubtful(replica):
                actions.append(self._leave("conflict", _DOUBTFUL, name))
            elif replica.stat is not None and replica.record is None:
                why = f"deleted on {tombstone.deleted_at}, but nothing proves that this data is what was deleted"
                actions.append(self._leave("no manifest", f"{why}: see `fsbackup rm`", name))
            elif replica.stat is not None or replica.manifest is not None or replica.damaged:
                actions.append(self._do("delete", name, f"the object was deleted on {tombstone.deleted_at}"))
        actions += self._clear_intents()
        if not actions and not self._unreachable():
            why = f"every replica has confirmed the delete of {tombstone.deleted_at}"
            actions.append(Action("forget delete", self._key, None, why))
        return tuple(actions)

    def _adopt_data(self) -> tuple[Action, ...]:
        """Decide about data for which no replica has a manifest."""
        replicas = self._status.replicas.values()
        copies = [replica for replica in replicas if replica.stat is not None]
        unreachable = " and ".join(self._unreachable())
        if not copies:
            damaged = [replica.store.name for replica in replicas if replica.damaged]
            if not damaged:
                return self._report_unreachable()
            if unreachable:
                return (self._leave("unreachable", f"cannot be repaired before {unreachable} answers"),)
            why = f"only a damaged manifest remains ({', '.join(damaged)})"
            return (self._leave("unrecoverable", why),)
        if isinstance(self._key, ShortenedName):
            why = f"its name is a shortened one, and no record says of which key ({_names(copies)})"
            return (self._leave("no manifest", why), *self._report_unreachable())
        if not self._adopt:
            why = f"no manifest proves it ({_names(copies)}); --adopt writes one where all copies are the same"
            return (self._leave("no manifest", why), *self._report_unreachable())
        if unreachable:
            return (self._leave("unreachable", f"cannot be adopted before {unreachable} answers"),)
        return self._adopt_copies(copies)

    def _adopt_copies(self, copies: list[ReplicaState]) -> tuple[Action, ...]:
        contents = self._inspection.contents
        unread = [replica.store.name for replica in copies if replica.store.name not in contents]
        if unread:
            return (self._leave("unreachable", f"cannot be adopted before {' and '.join(unread)} can be read"),)
        if len({contents[replica.store.name].sha256 for replica in copies}) > 1:
            return (self._leave("conflict", f"{_names(copies)} hold different bytes without a manifest"),)
        why = f"there is no manifest, and all copies are the same ({_names(copies)})"
        return tuple(self._do("adopt", replica.store.name, why) for replica in copies)

    def _refill(self, latest: Manifest) -> tuple[Action, ...]:
        """Bring every replica to the newest version."""
        actions = [
            action
            for name, replica in self._status.replicas.items()
            if (action := self._refill_replica(name, replica, latest)) is not None
        ]
        if "present" in self._status.states.values() or not actions:
            return tuple(actions)
        proving = [action for action in actions if action.kind == "write manifest"]
        if proving:
            return tuple(proving)  # the next round reads from these
        if any(replica.stat is not None for replica in self._status.replicas.values()):
            return tuple(actions)  # the good blocks of several bad copies may make a whole
        if unreachable := self._unreachable():
            why = f"cannot be refilled before {' and '.join(unreachable)} answers"
            return (self._leave("unreachable", why),)
        return (self._leave("unrecoverable", f"no replica has its data: {describe(self._status)}"),)

    def _refill_replica(self, name: str, replica: ReplicaState, latest: Manifest) -> Action | None:
        state, content = self._status.states[name], self._inspection.contents.get(name)
        if state in ("unknown", "expired"):
            return None
        if state == "unconfirmed":
            return self._take_back(name, replica)
        if state == "present":
            if replica.holds(latest):
                return None
            return self._do("write manifest", name, "the data is right, but its ETag or time has changed")
        if content is not None and content.sha256 == latest.sha256:
            return self._do("write manifest", name, f"the data is right, its manifest is {_fault(replica)}")
        if self._is_doubtful(replica):
            return self._leave("conflict", f"{_DOUBTFUL} ({replica.detail})", name)
        if why := self._why_not_yet(state, replica, latest):
            return self._leave("busy" if state == "conflict" else "unreachable", why, name)
        if self._is_being_replaced(name, latest):
            return self._leave("busy", "a newer version is announced and not finished yet", name)
        detail = replica.detail
        return self._do("refill", name, _REASONS[state] + (f" ({detail})" if detail else ""))

    def _is_doubtful(self, replica: ReplicaState) -> bool:
        latest, own = self._status.latest, replica.record
        return latest is not None and own is not None and versions.is_doubtful(latest, own)

    def _why_not_yet(self, state: CopyState, replica: ReplicaState, latest: Manifest) -> str | None:
        """Return why a version that does not count must stay for now: it may be confirmed, or become so."""
        status, own = self._status, replica.record
        if own is None or status.is_confirmed or versions.version_id(own) == versions.version_id(latest):
            return None
        unreachable = self._unreachable()
        if unreachable and versions.copies(status.replicas.values(), own) + len(unreachable) >= status.needed:
            return f"which version counts can be decided when {' and '.join(unreachable)} answers"
        if state == "conflict" and self._age(own) < self._safe_age:
            return "two contents under one generation, of which none is confirmed yet"
        return None

    def _take_back(self, name: str, replica: ReplicaState) -> Action:
        """Replace a version that was never confirmed by the newest, or undo its delete, when it is old enough."""
        record = replica.record
        assert record is not None
        if versions.is_ahead(record):
            why = f"its generation is of the future: a clock was wrong, or it is forged ({replica.detail})"
            return self._leave("conflict", why, name)
        if not self._status.is_confirmed:
            why = f"which version counts can be decided when {' and '.join(self._unreachable())} answers"
            return self._leave("unreachable", why, name)
        if self._age(record) < self._safe_age:
            return self._leave("busy", f"it was refused, or is under way: {replica.detail}", name)
        if isinstance(record, Tombstone):
            return self._do("forget delete", name, f"{replica.detail}, and never completed")
        return self._do("refill", name, f"{_REASONS['unconfirmed']} ({replica.detail})")

    def _age(self, record: Record) -> float:
        """Return the seconds since a version was made, or its delete was begun; negative for one of the future."""
        made = record.deleted_timestamp if isinstance(record, Tombstone) else record.generation / 1000
        return self._now - made

    def _is_being_replaced(self, name: str, latest: Manifest) -> bool:
        return intents.outranks(self._inspection.intents.get(name, ()), latest.generation, self._safe_age)

    def _clear_intents(self) -> tuple[Action, ...]:
        """Clear the write intents that prove nothing any more, once their writers have ended or are abandoned."""
        actions = []
        for name, found in self._inspection.intents.items():
            useless = [each for each in found if self._is_useless(name, each)]
            if useless:
                stored = all(self._is_fulfilled(name, each) for each in useless)
                why = _STORED if stored else "its writer has ended, and its version was never stored"
                names = tuple(each.name for each in useless)
                actions.append(Action("clear intent", self._key, name, why, names=names))
        return tuple(actions)

    def _is_useless(self, name: str, intent: Intent) -> bool:
        """Tell whether an intent can go: its writer has ended, as the lock says or its age, and it proves nothing.

        Without a lock only its age says so, for its writer may be about to write his manifest over another one's.
        With one, who clears it takes that, and looks at the data again.
        """
        if self._may_prove(name, intent):
            return False
        if intent.age > self._safe_age:
            return True
        store = self._status.replicas[name].store
        locks = store.capabilities.locks
        if locks and intents.is_dead(store, intent):
            return True
        return self._is_fulfilled(name, intent) and (locks or not self._has_writers(name))

    def _may_prove(self, name: str, intent: Intent) -> bool:
        """Tell whether the intent is, or may be, what proves the data."""
        replica, content = self._status.replicas[name], self._inspection.contents.get(name)
        if intent.manifest is None or not intents.may_be_data(intent, replica):
            return False
        return content is None or content.sha256 == intent.manifest.sha256

    def _has_writers(self, name: str) -> bool:
        """Tell whether somebody may still write to a replica."""
        return any(each.may_go_on(self._safe_age) for each in self._inspection.intents[name])

    def _is_fulfilled(self, name: str, intent: Intent) -> bool:
        latest = self._status.latest
        if intent.manifest is None or latest is None:
            return False
        if isinstance(latest, Tombstone):
            return intent.manifest.generation <= latest.generation
        return self._status.states[name] == "present" and intent.manifest.generation <= latest.generation

    def _report_unreachable(self) -> tuple[Action, ...]:
        return tuple(
            self._leave("unreachable", _why_unknown(self._status.replicas[name].error), name)
            for name in self._unreachable()
        )

    def _unreachable(self) -> list[str]:
        return [name for name, state in self._status.states.items() if state == "unknown"]

    def _do(self, kind: Kind, backend: str, reason: str) -> Action:
        return Action(kind, self._key, backend, reason)

    def _leave(self, problem: Unresolved, reason: str, backend: str | None = None) -> Action:
        return Action("leave", self._key, backend, reason, problem)


def describe(status: ObjectStatus) -> str:
    """Return what each replica has, in words."""
    return "; ".join(f"{name}: {each.detail or each.state}" for name, each in status.replicas.items())


def _fault(replica: ReplicaState) -> str:
    """Return what is wrong with the manifest of data that is right."""
    if replica.damaged and not replica.lacks_record:
        return "damaged"
    return "missing" if replica.record is None else "of other data"


def _names(replicas: list[ReplicaState]) -> str:
    return ", ".join(replica.store.name for replica in replicas)


def _why_unknown(error: FsbackupError | None) -> str:
    return f"could not be inspected: {error}" if error is not None else "could not be inspected"
