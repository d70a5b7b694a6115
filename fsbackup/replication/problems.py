"""What verify finds wrong, and what to do about it. Pure decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fsbackup.replication.classify import CopyState, ObjectStatus, copies_needed

#: ``"lost"``: it has a manifest, and its data is on no replica.
ProblemState = CopyState | Literal["lost"]

#: What is as it should be.
FINE: frozenset[ProblemState] = frozenset({"present", "expired"})

_REPAIR = "`fsbackup repair` puts a proven copy there"
_ADVICE: dict[ProblemState, str] = {
    "missing": _REPAIR,
    "stale": _REPAIR,
    "size differs": _REPAIR,
    "damaged": _REPAIR,
    "no manifest": "`fsbackup repair` gives it its manifest back, or a proven copy",
    "deleted elsewhere": "`fsbackup repair` finishes the delete",
    "conflict": "only a person can decide: compare both and put the right one with --overwrite",
    "unknown": "verify it again when this backend answers",
    "lost": "back it up again from its source, or give it up with `fsbackup rm`",
}
_UNPROVEN = "nothing proves it: `fsbackup repair --adopt` takes it as it is where all copies are the same"
_LAST = "no proven copy is left: get what you can from this one, and back it up again from its source"


@dataclass(frozen=True, slots=True)
class CopyProblem:
    """One thing that is wrong with one replica of one object.

    Parameters
    ----------
    key, backend
        Where.
    state
        What, in one word or two.
    detail
        What exactly; empty where the state says it all.
    advice
        What to do about it.
    """

    key: str
    backend: str
    state: ProblemState
    detail: str
    advice: str

    def as_dict(self) -> dict[str, Any]:
        """Return the problem as plain JSON types."""
        return asdict(self)


def is_gone(verdict: ObjectStatus) -> bool:
    """Tell whether there is no such object (any more): no data on any replica, and no manifest that misses it.

    A manifest whose data every replica's retention let go misses nothing.
    """
    if set(verdict.states.values()) == {"expired"}:
        return True
    found = verdict.findings.values()
    return verdict.manifest is None and not any(each.stat or each.damaged or each.error for each in found)


def is_under_replicated(verdict: ObjectStatus, min_copies: int) -> bool:
    """Tell whether an object has too few proven copies; a replica that cannot be asked may have one.

    An object without any proven copy is short in any case. A copy that retention let go is not asked for.
    """
    states = list(verdict.states.values())
    possible = verdict.copies + states.count("unknown")
    return verdict.copies == 0 or possible < copies_needed(states, min_copies)


def problems(verdict: ObjectStatus) -> Iterator[CopyProblem]:
    """Yield what is wrong with an object, replica by replica."""
    lost = verdict.manifest is not None and not any(each.stat or each.error for each in verdict.findings.values())
    for name, state in verdict.states.items():
        if state in FINE or (verdict.deleted and state == "missing"):
            continue
        if not lost:
            yield CopyProblem(verdict.key, name, state, verdict.details.get(name, ""), _advice(verdict, state))
        elif verdict.findings[name].record is not None:
            yield CopyProblem(verdict.key, name, "lost", "no replica has its data", _ADVICE["lost"])


def _advice(verdict: ObjectStatus, state: CopyState) -> str:
    unproven = verdict.latest is None and "no manifest" in verdict.states.values()
    if unproven and state in ("no manifest", "missing"):
        return _UNPROVEN
    hopeless = verdict.copies == 0 and "unknown" not in verdict.states.values() and not verdict.deleted
    return _LAST if hopeless and _ADVICE[state] == _REPAIR else _ADVICE[state]
