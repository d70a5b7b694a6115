"""Which base backups of a PostgreSQL archive are kept, and which WAL they need. Pure: from keys alone, no I/O.

Base backups
    Kept are those that the window needs (the newest one that had ended when the window begins, and all later
    ones), and the newest `min_bases`. A base backup's earliest target is its end, not its beginning.
WAL
    A segment is needed by a kept base backup that starts at or before it, on its own timeline or an earlier one:
    the number of a timeline is higher than those of the timelines that it branched from. Whatever else a rule
    says, age and numbers never let WAL go. ``.history`` files always stay, and so does everything as long as no
    base backup is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from fsbackup.errors import ConfigError
from fsbackup.wal import BaseName, WalName, parse_key

#: Seconds after which a base backup without a description is not one under way any more, if a later one is
#: complete.
_UNFINISHED = 86_400.0


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """The retention of one archive; with neither `window` nor `min_bases` it keeps everything.

    Parameters
    ----------
    prefix
        The archive's.
    window
        How far back one can go.
    min_bases
        How many of the newest base backups are kept at any age; at least 1.

    Raises
    ------
    ConfigError
        For a window or a number below its minimum.
    """

    prefix: str
    window: timedelta | None = None
    min_bases: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None and self.window <= timedelta():
            raise ConfigError(f"window must be longer than nothing, not {self.window}")
        if self.min_bases is not None and self.min_bases < 1:
            raise ConfigError(f"min_bases must be at least 1, not {self.min_bases}")

    @property
    def deletes(self) -> bool:
        """Whether the rule can delete anything."""
        return self.window is not None or self.min_bases is not None

    def has(self, key: str) -> bool:
        """Return whether a key is in the archive."""
        return key.startswith(f"{self.prefix}/")


@dataclass(frozen=True, slots=True)
class Base:
    """A complete base backup.

    Parameters
    ----------
    label
        Its name: when it began.
    stopped
        When it ended, in epoch seconds: the first moment to which it can be recovered.
    timeline, position
        Those of the segment from which it needs the WAL.
    last
        The position of the last segment without which it cannot be recovered.
    key
        The key of its data.
    """

    label: str
    stopped: float
    timeline: int
    position: str
    last: str = ""
    key: str = ""

    @property
    def segment(self) -> str:
        """The name of the segment from which it needs the WAL."""
        return f"{self.timeline:08X}{self.position}"

    def needs(self, name: WalName) -> bool:
        """Return whether recovery from it may ask for a WAL file."""
        return self.timeline <= name.timeline and self.position <= name.position


def choose(bases: Iterable[Base], rule: ArchiveRule, now: float) -> dict[str, str]:
    """Return the base backups that a rule keeps, by label, each with the reason."""
    newest_first = sorted(bases, key=lambda each: (each.stopped, each.label), reverse=True)
    if not rule.deletes:
        return {base.label: "no rule deletes anything" for base in newest_first}
    kept: dict[str, str] = {}
    begin = None if rule.window is None else now - rule.window.total_seconds()
    for number, base in enumerate(newest_first):
        least = rule.min_bases or 1
        if number < least:
            kept[base.label] = "the newest" if least == 1 else f"one of the newest {least}"
        if begin is not None and base.stopped > begin:
            kept.setdefault(base.label, "it ended within the window")
        elif begin is not None:
            kept.setdefault(base.label, "the window begins after its end, and before that of the next one")
            begin = None
    return kept


class ArchivePlan:
    """Decides for the keys of one archive on one backend; `see` all of them, then `decide` each.

    Memory grows with the number of base backups, not with that of segments.
    """

    def __init__(self, rule: ArchiveRule, now: float) -> None:
        self._rule = rule
        self._now = now
        self._described: dict[str, BaseName] = {}
        #: The keys of the data, by label.
        self._data: dict[str, str] = {}
        self._kept: tuple[list[Base], Mapping[str, str]] | None = None

    def see(self, key: str) -> None:
        """Add a key of the complete listing."""
        part = parse_key(self._rule.prefix, key)
        if not isinstance(part, BaseName):
            return
        self._kept = None
        if part.is_description:
            self._described[part.label] = part
        else:
            self._data[part.label] = key

    @property
    def bases(self) -> list[Base]:
        """The complete base backups, oldest first."""
        return sorted(
            (
                Base(each.label, each.stopped, each.timeline, each.position, each.last, self._data[each.label])
                for each in self._described.values()
                if each.stopped is not None and each.label in self._data
            ),
            key=lambda each: each.stopped,
        )

    @property
    def unfinished(self) -> list[str]:
        """The labels of base backups that lack their description, or their data."""
        return sorted(self._data.keys() ^ self._described.keys())

    def decide(self, key: str) -> tuple[bool, str]:
        """Return whether to keep a key, and why."""
        if not self._rule.deletes:
            return True, f"the archive {self._rule.prefix!r} has no retention"
        part = parse_key(self._rule.prefix, key)
        if part is None:
            return True, "neither WAL nor part of a base backup"
        if isinstance(part, BaseName):
            return self._decide_base(part)
        if not part.position:
            return True, "histories of timelines always stay"
        return self._decide_wal(part)

    def _decide_base(self, part: BaseName) -> tuple[bool, str]:
        bases, kept = self._choose()
        if (reason := kept.get(part.label)) is not None:
            return True, f"base backup {part.label}: {reason}"
        if all(base.label != part.label for base in bases):
            is_old = self._now - part.started > _UNFINISHED
            if is_old and any(base.label > part.label for base in bases):
                return False, f"base backup {part.label} was never finished, and later ones were"
            return True, f"base backup {part.label} is not finished"
        newer = sum(base.label in kept and base.label > part.label for base in bases)
        count = "1 later one is" if newer == 1 else f"{newer} later ones are"
        return False, f"base backup {part.label}: older than what the window needs, and {count} kept"

    def _decide_wal(self, name: WalName) -> tuple[bool, str]:
        bases, kept = self._choose()
        chosen = [base for base in bases if base.label in kept]
        if not chosen:
            return True, "no base backup is complete, so that nobody knows what it takes"
        first = next((base for base in chosen if base.needs(name)), None)
        if first is not None:
            return True, f"base backup {first.label} needs the WAL from {first.segment} on"
        oldest = min(chosen, key=lambda base: (base.position, base.timeline))
        return False, f"no base backup that is kept needs it: they begin with {oldest.segment} ({oldest.label})"

    def _choose(self) -> tuple[list[Base], Mapping[str, str]]:
        if self._kept is None:
            bases = self.bases
            self._kept = bases, choose(bases, self._rule, self._now)
        return self._kept
