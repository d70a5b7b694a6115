"""Sets in memory as jobs leave them over time: how keys are made, what is a version of what, and what is where."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from fsbackup.retention import Retention
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import META, MemoryStore
from tests.replication.prune_helpers import content, record
from tests.replication.raw_replicas import manifest_name, proves, sealed
from tests.retention_judge import Object
from tests.zones import ZONES

NAMES = "abc"
#: How a job names its keys, and what it finds at its source: directories of tenants, ids of any kind, and so on.
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "tenants/{now:%Y-%m-%d}/{relpath}": tuple(f"{number:02}/db.sql" for number in range(1, 32)),
    "weekly/{relpath}/{now:%G-W%V}": ("ring", "2025-W01", "shop/2024"),
    "ids/{now:%Y%m%d}-{name}": ("7", "2025", "20250103", "1412345678", "19850412-1234", "da39a3ee5e6b4b0d3255"),
    "stamps/{now:%Y-%m-%dT%H%M%S%z}/{relpath}": ("db.sql", "0500/db.sql", "-0400"),
    "months/{now:%Y/%m}/{name}": ("01", "2024", "logo.png"),
    "epochs/{relpath}.{now:%Y%m%d%H%M}": ("1736899200", "202501150000", "a"),
}
#: Files that are no versions of each other, though their directories look like dates; unless a rule says so.
UPLOADS = "uploads/{relpath}"
MISTAKE = "^(uploads)/"


@dataclass(frozen=True)
class Made:
    """One object: what it is a version of (None: it stands alone), when it was made, and what each backend has."""

    series: tuple[str, str] | None
    when: float
    have: Mapping[str, str]  # "good", "short" or "none"


@dataclass(frozen=True)
class World:
    """Objects by key, the time and the zone of the last run, and the keys that this run found at its source."""

    objects: Mapping[str, Made]
    now: float
    zone: str
    found: frozenset[str]

    def listed(self, names: Iterable[str], rule: Retention | None) -> list[Object]:
        """Return what any of these backends lists, as the judge takes it, with the series that a rule makes."""
        return [
            (key, self._series(made, rule), made.when)
            for key, made in self.objects.items()
            if any(made.have[name] != "none" for name in names)
        ]

    def _series(self, made: Made, rule: Retention | None) -> tuple[str, str] | None:
        return (UPLOADS, "") if made.series is None and rule and rule.series else made.series


_HAVE = st.sampled_from(["good"] * 7 + ["none"] * 2 + ["short"])


@st.composite
def worlds(draw: st.DrawFn, *, whole: bool = False) -> World:
    """Draw a world; in a `whole` one every backend has everything."""
    zone = draw(st.sampled_from(ZONES))
    hour = draw(st.sampled_from([1, 19, 23]))
    # Around the clock changes of both zones, the end of a year with 53 weeks, and a leap day.
    last = draw(st.sampled_from([(2025, 3, 31), (2025, 11, 4), (2021, 1, 4), (2024, 3, 1)]))
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 6, 7, 8, 31]), min_size=1, max_size=9))
    end = datetime(*last, hour, 30, tzinfo=ZoneInfo(zone))
    runs = [end - timedelta(days=sum(gaps[:at])) for at in range(len(gaps) + 1)][::-1]
    objects: dict[str, Made] = {}
    found: set[str] = set()
    for template in draw(st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=2, unique=True)):
        things = draw(st.lists(st.sampled_from(LAYOUTS[template]), min_size=1, max_size=3, unique=True))
        for thing in things:
            # It begins once, and may end: stopped, or renamed to another one.
            first, end_at = sorted(draw(st.tuples(*[st.integers(0, len(runs) - 1)] * 2)))
            end_at = len(runs) - 1 if draw(st.booleans()) else end_at
            for run in runs[first : end_at + 1]:
                key = template.format(now=run, relpath=thing, name=thing)
                objects[key] = Made((template, thing), run.timestamp(), _drawn_have(draw, whole))
                if run is runs[-1]:
                    found.add(key)
    for month in range(1, draw(st.integers(1, 6))):
        key = UPLOADS.format(relpath=f"2024/{month:02}/logo.png")
        objects[key] = Made(None, runs[month % len(runs)].timestamp(), _drawn_have(draw, whole))
        if draw(st.booleans()):
            found.add(key)
    return World(objects, end.timestamp() + 60, zone, frozenset(found))


def _drawn_have(draw: st.DrawFn, whole: bool) -> Mapping[str, str]:
    return {name: "good" if whole else draw(_HAVE) for name in NAMES}


class AgedStore(MemoryStore):
    """A store in memory that lists each object as old as it is said to be."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name)
        self.times: dict[str, float] = {}
        for key, made in world.objects.items():
            if made.have[name] != "none":
                self._put(key, content(key) if made.have[name] == "good" else b"?", made.when)
                manifest = sealed(record(key, content(key), made.when))
                self._put(manifest_name(key), json.dumps(manifest).encode(), made.when)

    def _put(self, name: str, data: bytes, when: float) -> None:
        self.objects[name], self.times[name] = data, when

    async def stat(self, name: str) -> ObjectStat | None:
        found = self.objects.get(name)
        return None if found is None else ObjectStat(name, len(found), self.times.get(name))

    async def list(self, prefix: str = "", start_after: str = ""):  # type: ignore[no-untyped-def]
        async for stat in super().list(prefix, start_after):
            yield ObjectStat(stat.name, stat.size, self.times.get(stat.name))

    def keys(self) -> set[str]:
        """Return what is there."""
        return {name for name in self.objects if not name.startswith(META)}

    def proven(self) -> set[str]:
        """Return what is there with a manifest that proves it, looked at without the library."""
        return {
            key
            for key in self.keys()
            if (raw := self.objects.get(manifest_name(key))) and proves(json.loads(raw), self.objects[key])
        }


def templates() -> Iterable[str]:
    """Return the destinations of all jobs."""
    return (*LAYOUTS, UPLOADS)
