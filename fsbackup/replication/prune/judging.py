"""Whether the copy that a backend's rule lets go may really go. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fsbackup.manifest import Manifest, Tombstone
from fsbackup.replication.prune.plans import Plans, listed_at, made_at
from fsbackup.replication.walk import Seen
from fsbackup.transfer import versions
from fsbackup.transfer.records import Finding


@dataclass(frozen=True, slots=True)
class Ruling:
    """What to do with one copy, and why: ``"go"``, ``"gone"`` (nothing is left), or the outcome of leaving it."""

    do: Literal["go", "kept", "held", "failed", "gone"]
    reason: str


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of one object.

    Parameters
    ----------
    seen
        What the replicas list of it.
    when
        Its time by the listings, by which it was decided.
    findings
        What each replica said when it was asked, by name.
    stopped
        Backends that are not completely known, by name.
    """

    seen: Seen
    when: float | None
    findings: Mapping[str, Finding]
    stopped: Mapping[str, str]


def judge(name: str, case: Case, plans: Plans) -> Ruling:
    """Return whether the copy on the backend `name`, which its rule lets go by the listings, may go."""
    own = case.findings[name]
    top = versions.newest(finding.record for finding in case.findings.values())
    if own.error is not None:
        return Ruling("failed", str(own.error))
    if own.stat is None and own.record is None and not own.damaged:
        return Ruling("gone", "somebody else removed it")
    if isinstance(top, Tombstone):
        return Ruling("held", f"it was deleted on {top.deleted_at}: `fsbackup repair` finishes that")
    if versions.contradicts([finding.record for finding in case.findings.values()], top):
        return Ruling("held", "there are two contents under one generation, and only a person can decide")
    if own.manifest is None or top is None:
        what = "its manifest is damaged" if own.damaged else "it has no manifest any more"
        return Ruling("held", f"{what}: run `fsbackup repair`")
    return _by_its_dates(name, case, plans, own.manifest) or _by_the_others(name, case, plans, top)


def _by_its_dates(name: str, case: Case, plans: Plans, own: Manifest) -> Ruling | None:
    if made_at(own) is None:
        return Ruling("kept", f"the date in its manifest cannot be read ({own.created_at!r})")
    if plans.wants(name, case.seen.key, _times(name, case)):
        return Ruling("kept", f"it was made on {own.created_at} or put here later, by which its rule keeps it")
    return None


def _times(name: str, case: Case) -> list[float | None]:
    """Return every time by which a backend's rule may keep the object."""
    listed = case.seen.replicas.get(name)
    here = [listed_at(listed), listed.record.modified if listed and listed.record else None]
    manifests = (finding.manifest for finding in case.findings.values())
    return [case.when, *here, *(made_at(manifest) for manifest in manifests if manifest is not None)]


def _by_the_others(name: str, case: Case, plans: Plans, top: Manifest) -> Ruling:
    """Let it go when nobody else wants it, or one who does has proof of the newest version."""
    wanting = [
        each
        for each in case.findings
        if each != name and (each in case.stopped or plans.wants(each, case.seen.key, _times(each, case)))
    ]
    if not wanting:
        return Ruling("go", "no other backend's rule keeps it")
    proven = [each for each in wanting if each not in case.stopped and case.findings[each].holds(top)]
    if proven:
        return Ruling("go", f"proven on {' and '.join(proven)}")
    why = "; ".join(_lack(each, case, top) for each in wanting)
    first = (
        "it is the only proven copy left" if _is_last(name, case, top) else "it is not proven where it should be"
    )
    return Ruling("held", f"{first}: {why}: run `fsbackup verify` and `repair`")


def _is_last(name: str, case: Case, top: Manifest) -> bool:
    return [each for each, finding in case.findings.items() if finding.holds(top)] == [name]


def _lack(name: str, case: Case, top: Manifest) -> str:
    finding = case.findings[name]
    if name in case.stopped:
        return f"{name} should have it, but {case.stopped[name]}"
    if finding.error is not None:
        return f"{name} should have it, but cannot be asked: {finding.error}"
    if finding.stat is None:
        return f"{name} should have it, and has not"
    stale = finding.manifest is not None and finding.manifest.generation < top.generation
    what = "an older version" if stale else "a copy that its manifest does not fit"
    return f"{name} should have it, and has {what}"
