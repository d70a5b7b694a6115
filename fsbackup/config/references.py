"""The rules between parts of a configuration: names that must exist, and parts that must fit each other.

They look at plain values, not at models, so that they hold for a file whose other mistakes are still in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fsbackup.config.problems import RuleViolation, suggest
from fsbackup.config.units import format_size, parse_size
from fsbackup.sizing import MIB

_LOCATION = ("path", "url", "endpoint_url", "account_id", "region", "bucket", "prefix")


def check_references(data: Any) -> list[RuleViolation]:
    """Return what does not fit in `data`, a configuration as plain values. Malformed parts are passed over."""
    backends = _mapping(data, "backends")
    sets = _mapping(data, "replication")
    violations: list[RuleViolation] = []
    for name, entry in sets.items():
        violations += _check_set(("replication", name), entry, backends)
    for name, entry in _mapping(data, "jobs").items():
        violations += _check_job(("jobs", name), entry, sets, backends)
    clusters = _mapping(data, "postgres")
    for name, entry in clusters.items():
        violations += _check_replication(("postgres", name), entry, sets)
    violations += _check_prefixes(clusters)
    violations += _check_destinations(_mapping(data, "jobs"), clusters)
    return violations


def _mapping(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _check_job(
    loc: tuple[str, str], job: Any, sets: Mapping[str, Any], backends: Mapping[str, Any]
) -> Iterator[RuleViolation]:
    yield from _check_replication(loc, job, sets)
    wanted = job.get("replication") if isinstance(job, Mapping) else None
    if isinstance(job, Mapping) and job.get("prune") is True and isinstance(wanted, str) and wanted in sets:
        names = _strings(sets[wanted].get("backends") if isinstance(sets[wanted], Mapping) else None)
        if not any(_mapping(backends.get(name), "retention") for name in names):
            why = "for example retention: {max_age: 30d, keep_last: 7}"
            yield RuleViolation((*loc, "prune"), f"needs a backend of {wanted!r} that has a retention", why)


def _check_replication(loc: tuple[str, str], entry: Any, sets: Mapping[str, Any]) -> Iterator[RuleViolation]:
    wanted = entry.get("replication") if isinstance(entry, Mapping) else None
    if isinstance(wanted, str) and wanted and wanted not in sets:
        fix = suggest(wanted, sets)
        yield RuleViolation((*loc, "replication"), "must be the name of a replication set", fix, shows_value=True)


def _check_prefixes(clusters: Mapping[str, Any]) -> Iterator[RuleViolation]:
    """Two clusters in one archive would write each other's segments."""
    seen: dict[str, str] = {}
    for own, name in _prefixes(clusters):
        other = next((each for each in seen if own.startswith(each) or each.startswith(own)), None)
        if other is not None:
            fix = f"{seen[other]!r} has its archive there"
            loc = ("postgres", name, "prefix")
            yield RuleViolation(loc, "must be a prefix of its own", fix, shows_value=True)
        seen.setdefault(own, name)


def _check_destinations(jobs: Mapping[str, Any], clusters: Mapping[str, Any]) -> Iterator[RuleViolation]:
    """What a job stores in an archive would be under the archive's retention."""
    prefixes = dict(_prefixes(clusters))
    for job, entry in jobs.items():
        destination = entry.get("destination") if isinstance(entry, Mapping) else None
        for prefix, name in prefixes.items() if isinstance(destination, str) else ():
            if str(destination).startswith(prefix):
                loc = ("jobs", job, "destination")
                yield RuleViolation(loc, "must not be below a cluster's prefix", f"the archive of {name!r}")


def _prefixes(clusters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the prefix of each cluster's archive, with a slash at its end, and the cluster's name."""
    for name, entry in clusters.items():
        prefix = entry.get("prefix") if isinstance(entry, Mapping) else None
        if isinstance(prefix, str) and prefix.strip("/"):
            yield f"{prefix.rstrip('/')}/", name


def _check_set(loc: tuple[str, str], entry: Any, backends: Mapping[str, Any]) -> Iterator[RuleViolation]:
    names = _strings(entry.get("backends") if isinstance(entry, Mapping) else None)
    for index, name in enumerate(names):
        if name and name not in backends:
            fix = suggest(name, backends)
            yield RuleViolation((*loc, "backends", index), "must be the name of a backend", fix, shows_value=True)
    known = {name: backends[name] for name in names if isinstance(backends.get(name), Mapping)}
    yield from _check_locations((*loc, "backends"), known)
    yield from _check_memory((*loc, "memory"), entry, known)


def _strings(value: Any) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [item if isinstance(item, str) else "" for item in value]


def _check_locations(loc: tuple[str, ...], backends: Mapping[str, Mapping[str, Any]]) -> Iterator[RuleViolation]:
    """Two copies in one place are one copy, whatever `min_copies` says."""
    seen: dict[str, str] = {}
    for name, backend in backends.items():
        place = repr([str(backend.get("type")).lower(), *(backend.get(part) or "" for part in _LOCATION)])
        if any(backend.get(part) for part in ("path", "url", "bucket")) and place in seen:
            yield RuleViolation(loc, f"must be different places: {seen[place]!r} and {name!r} are the same one")
        seen.setdefault(place, name)


def _check_memory(
    loc: tuple[str, ...], entry: Any, backends: Mapping[str, Mapping[str, Any]]
) -> Iterator[RuleViolation]:
    memory = _bytes(entry.get("memory", 64 * MIB)) if isinstance(entry, Mapping) else None
    for name, backend in backends.items():
        part = _bytes(backend.get("part_size"))
        if memory is not None and part is not None and part > memory:
            yield RuleViolation(loc, f"must hold one part of {name!r}, which is {format_size(part)}")


def _bytes(value: Any) -> int | None:
    try:
        return parse_size(str(value))
    except ValueError:
        return None
