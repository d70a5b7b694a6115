"""The promises, checked by an independent reader: nothing in here, or imported from here, is fsbackup's code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.replication.raw_replicas import PENDING, RawBucket, RawReplica, Records, manifest_name, proves
from tests.servers import s3
from tests.servers.endpoint import client

#: Contents that something may have; None: it is not there.
Contents = frozenset[bytes | None]
State = Literal["absent", "deleted", "proven", "bare", "unproven"]


@dataclass(frozen=True)
class Seen(Records):
    """Everything that one replica held at one time, by name."""

    objects: Mapping[str, bytes]

    def get(self, name: str) -> bytes | None:
        """Return what was stored under a name."""
        return self.objects.get(name)

    def names(self) -> set[str]:
        """Return all names."""
        return set(self.objects)


@dataclass
class Expectations:
    """What may be where.

    Attributes
    ----------
    eyes
        The replicas as they are.
    seen
        The replicas as they were at the last `look`.
    allowed
        By key: the contents that a replica may hold and must prove, and a reader may get.
    due
        By key: the one content to be had from now on, since that was promised.
    excused
        By (replica, key): what was damaged, and the only contents it may have; None: any.
    stays
        What may stay at (replica, key) in the end, though its retention lets it go.
    bare
        Keys that are being created: for a moment their data has no manifest.
    expiring
        By key: the replicas whose retention lets it go.
    theirs
        By replica: what somebody else put there.
    uploads
        By replica: the unfinished uploads of somebody else.
    """

    raw_replicas: Mapping[str, RawReplica]
    seen: dict[str, Seen] = field(default_factory=dict)
    allowed: dict[str, Contents] = field(default_factory=dict)
    due: dict[str, bytes | None] = field(default_factory=dict)
    stays: set[tuple[str, str]] = field(default_factory=set)
    excused: dict[tuple[str, str], Contents | None] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)
    expiring: dict[str, frozenset[str]] = field(default_factory=dict)
    theirs: dict[str, dict[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, set[str]] = field(default_factory=dict)

    def look(self, away: RawReplica | None = None) -> None:
        """Read everything that is anywhere; a disk that is away is looked at where it is."""
        raw_replicas = {**self.raw_replicas, "local": away} if away else self.raw_replicas
        self.seen = {name: Seen(raw.everything()) for name, raw in raw_replicas.items()}

    def wanted(self, key: str) -> Contents:
        """Return what a reader may get."""
        if key in self.due:
            return frozenset({self.due[key]})
        everywhere = len(self.expiring.get(key, ())) == len(self.raw_replicas)
        return self.allowed[key] | ({None} if everywhere else set())

    def holdable(self, name: str, key: str) -> Contents:
        """Return what a replica may hold."""
        return self.allowed[key] | ({None} if name in self.expiring.get(key, ()) else set())


def held(raw: Seen, key: str) -> tuple[State, bytes | None]:
    """Return what a replica holds under a key, and how far its records prove it."""
    data, record, announced = raw.get(key), _records(raw, key), _records(raw, key, announced=True)
    deleted = raw.tombstone(key)
    if deleted is not None and all(each["generation"] <= deleted["generation"] for each in record):
        return "deleted", data
    if data is None:
        return "absent", None
    if any(proves(each, data) for each in (*record, *announced)):
        return "proven", data
    return ("bare" if raw.get(manifest_name(key)) is None and not announced else "unproven"), data


def _records(raw: Seen, key: str, *, announced: bool = False) -> list[dict[str, Any]]:
    try:
        found = raw.announced(key) if announced else [raw.manifest(key)]
    except ValueError:
        return []  # cut off by what we did to it
    return [each for each in found if each is not None and each.get("key") == key]


def nothing_torn(expected: Expectations) -> None:
    """No replica holds anything under a name but one whole version, which its records prove."""
    for key in expected.allowed:
        for name, raw in expected.seen.items():
            allowed = expected.holdable(name, key)
            state, data = held(raw, key)
            where = f"{key} on {name} is {state}, {described(data)}"
            if (name, key) in expected.excused:
                only = expected.excused[name, key]
                assert only is None or data in only, f"torn: {where}"
                continue
            assert data in allowed or (state == "deleted" and data is None), f"torn: {where}"
            assert state != "unproven", f"nothing proves it: {where}"
            assert state != "deleted" or None in allowed, f"deleted by nobody: {where}"
            assert state != "bare" or key in expected.bare, f"it lost its manifest: {where}"


def still_provable(expected: Expectations, keys: Iterable[str]) -> None:
    """Of every object that was there at least one version can be proven by somebody."""
    for key in keys:
        found = [held(raw, key) for raw in expected.seen.values()]
        assert any(state == "proven" and data in expected.allowed[key] for state, data in found), (
            f"no replica can prove {key} any more: {[(state, described(data)) for state, data in found]}"
        )


def stored(expected: Expectations, key: str, data: bytes, names: Iterable[str], least: int) -> None:
    """At least so many of the replicas that confirmed an object hold it, seen by plain tools."""
    confirmed = set(names)
    missing = {name for name in confirmed if held(expected.seen[name], key) != ("proven", data)}
    missing -= {name for name in missing if (name, key) in expected.excused}
    assert not missing, f"{key} was confirmed by {sorted(missing)}, and is not there"
    assert len(confirmed) >= least, f"{key}: success with {sorted(confirmed)} only"


def gone(expected: Expectations, key: str, names: Iterable[str]) -> None:
    """Replicas that confirmed a removal have no data any more."""
    for name in names:
        data = expected.seen[name].get(key)
        assert data is None or (name, key) in expected.excused, (
            f"{key} is said to be gone from {name}: {described(data)}"
        )


def converged(expected: Expectations, expired: Mapping[str, set[str]]) -> None:
    """All replicas hold and prove one version of each object (or not, by their retention), and nothing else."""
    wanted: dict[str, set[str]] = {name: set(each) for name, each in expected.theirs.items()}
    for key in expected.allowed:
        found = {name: raw.get(key) for name, raw in expected.seen.items() if key not in expired.get(name, ())}
        said = {name: described(data) for name, data in found.items()}
        assert len(set(found.values())) <= 1, f"{key} differs: {said}"
        assert set(found.values()) <= expected.wanted(key), f"{key} is not what it was to be: {said}"
        versions = set()
        for name, data in found.items():
            if data is not None:
                record = expected.seen[name].manifest(key)
                assert record is not None, f"{key} on {name} has no manifest"
                assert proves(record, data), f"{key} on {name} is not what its manifest says"
                versions.add(
                    (record["generation"], record["sha256"], record.get("replaces"), record["created_at"])
                )
                wanted.setdefault(name, set()).update((key, manifest_name(key)))
        assert len(versions) <= 1, f"{key} is of several versions: {versions}"
    nothing_else(expected, wanted)


def nothing_unfinished(expected: Expectations) -> None:
    """An operation that came to its end by itself leaves no temp file, announcement or unfinished upload."""
    for name, raw in expected.raw_replicas.items():
        ours = set(expected.seen[name].objects) - expected.theirs.get(name, {}).keys()
        left = [each for each in ours if each.startswith(PENDING) or each.endswith("-tmp")]
        assert not left, f"{name}: {left} is left by an operation that ended"
        if isinstance(raw, RawBucket):
            assert unfinished(raw) == expected.uploads.get(name, set()), f"unfinished uploads on {name}"


def nothing_else(expected: Expectations, wanted: Mapping[str, set[str]]) -> None:
    """No temp file, announcement, tombstone or unfinished upload of ours is left; and all that is others'."""
    for name, raw in expected.raw_replicas.items():
        staying = {each for at, key in expected.stays if at == name for each in (key, manifest_name(key))}
        names = set(expected.seen[name].objects) - (staying - wanted.get(name, set()))
        assert names == wanted.get(name, set()), (
            f"{name}: left over {sorted(names - wanted.get(name, set()))}, "
            f"gone {sorted(wanted.get(name, set()) - names)}"
        )
        if isinstance(raw, RawBucket):
            assert unfinished(raw) == expected.uploads.get(name, set()), f"unfinished uploads on {name}"
    others_untouched(expected)


def others_untouched(expected: Expectations) -> None:
    """What somebody else put beside our objects is as it was."""
    for name, theirs in expected.theirs.items():
        for each, data in theirs.items():
            assert expected.seen[name].get(each) == data, f"{each} on {name} was not ours to touch"
    for name, keys in expected.uploads.items():
        raw = expected.raw_replicas[name]
        assert isinstance(raw, RawBucket)
        assert keys <= unfinished(raw), f"an upload on {name} was not ours to abort"


def unfinished(raw: RawBucket) -> set[str]:
    """Return the keys of unfinished uploads that have parts or are others'.

    What was begun a moment before it could be recorded as ours has no part and takes no room.
    """
    found = set()
    for upload in s3.list_uploads(raw.endpoint):
        if not upload.key.startswith(raw.prefix):
            continue
        where = {"Bucket": raw.endpoint.bucket, "Key": upload.key, "UploadId": upload.upload_id}
        if client(raw.endpoint).list_parts(**where).get("Parts"):
            found.add(upload.key.removeprefix(raw.prefix))
    return found


def described(data: bytes | None) -> str:
    """Return what some bytes are, briefly."""
    return "nothing" if data is None else f"{len(data)} bytes {data[:4].hex()}…{data[-4:].hex()}"
