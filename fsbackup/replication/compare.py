"""What listings alone tell of an object, and whether they make it look wrong. Pure decisions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fsbackup.replication.classify import CopyState, IsExpired
from fsbackup.replication.walk import KeyEntry, ReplicaEntry
from fsbackup.stores.base import Capabilities, ObjectStat

#: Manifests of one version differ only in the ETag and version id of their own replica, shorter than this.
_OWN_PART = 256
#: Older than any backup: epoch seconds.
LONG_AGO = 1.0
_MD5 = re.compile(r"[0-9a-f]{32}(-[1-9][0-9]*)?")


def state_from_listings(
    seen: KeyEntry, capabilities: Mapping[str, Capabilities], expired: IsExpired | None = None
) -> dict[str, CopyState] | None:
    """Return what each replica has as far as its listings tell, None when the replicas must be asked."""
    listed = {name: each for name, each in seen.replicas.items() if each is not None}
    if any(each.record and not each.data for each in listed.values()):
        return None  # deleted, or data that is lost
    data = {name: each.data for name, each in listed.items() if each.data}
    records = [each.record.size for each in listed.values() if each.record]
    if (
        len({each.size for each in data.values()}) > 1
        or max(records, default=0) - min(records, default=0) > _OWN_PART
    ):
        return None
    if _contents_differ(data, capabilities):
        return None
    when = stored_at(seen)
    lacking = [name for name, each in listed.items() if each.data is None]
    gone = {name for name in lacking if expired is not None and expired(name, seen.key, when)}
    # Its manifest may say that it is older than a copy which repair put back.
    if expired is not None and any(expired(name, seen.key, LONG_AGO) for name in lacking if name not in gone):
        return None
    return {name: "expired" if name in gone else _state(each) for name, each in seen.replicas.items()}


def _state(listed: ReplicaEntry | None) -> CopyState:
    if listed is None:
        return "unknown"
    if listed.data is None:
        return "missing"
    return "present" if listed.record else "no manifest"


def stored_at(seen: KeyEntry) -> float | None:
    """Return when the object was stored, epoch seconds: on the replica that has had it longest.

    By the manifests where there is one: a copy on a disk has the time of the file that it was made from.
    """
    there = [each for each in seen.replicas.values() if each and each.data]
    times = [each.record.modified for each in there if each.record]
    times = times or [each.data.modified for each in there if each.data]
    return min((when for when in times if when is not None), default=None)


def _contents_differ(data: Mapping[str, ObjectStat], capabilities: Mapping[str, Capabilities]) -> bool:
    """Tell whether stores whose ETags are made of the content list different ones for one way of storing it."""
    found: dict[str, set[str]] = {}
    for name, each in data.items():
        form = _MD5.fullmatch(each.etag or "")
        kinds = ("all",) if form and form[1] else ("single", "all")
        if form and capabilities[name].content_etags in kinds:
            found.setdefault(form[1] or "", set()).add(form[0])
    return any(len(etags) > 1 for etags in found.values())
