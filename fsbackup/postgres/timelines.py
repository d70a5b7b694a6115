"""From which base backup to recover, and on which timeline.

A promotion, and a recovery to a moment, begin a new timeline where the old one is left. Where the old server goes
on all the same, or had gone on, as before every recovery to an earlier moment, two timelines have that time, each
with commits of its own. Which of them is meant only the caller knows: a moment at which they may have diverged is
refused until one is chosen, and both are named. After a failover in which the old server has ended there is
nothing to choose, nor is there for a moment before they diverge.

When they diverge is known exactly where a recovery to a moment ended there: PostgreSQL writes it into the history.
Elsewhere it is taken to be when the last segment that both have was written, since all commits behind it came
later; a moment between that and the true one is refused, too, though both have the same of it. How far a timeline
reaches is taken to be when its last segment was stored, which is later than its last commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal

from fsbackup import clock
from fsbackup.errors import ConfigError, FsbackupError
from fsbackup.loop import run
from fsbackup.postgres.archive import Archive, find_wal
from fsbackup.postgres.coverage import Fork, Window
from fsbackup.postgres.status import ArchiveStatus
from fsbackup.replication.stat import stat

#: A timeline by its number; "latest" is the newest, whatever the others have.
Timeline = int | Literal["latest"]
#: Seconds by which a commit may be older than what was written before it: it gets its time first.
_SLACK = 10.0


def choose(archive: Archive, found: ArchiveStatus, to: datetime | None, timeline: Timeline | None) -> Window:
    """Return from which base backup to recover: the newest that leads to the target on the timeline.

    Parameters
    ----------
    archive, found
        Where from, and what it has.
    to
        The moment; None for the end of the WAL.
    timeline
        Where recovery arrives; None for the newest, unless another one may be meant.

    Raises
    ------
    ConfigError
        When there is none, or it has to be said which timeline is meant; names what can be recovered.
    """
    reaches, newest = found.together.reaches, found.together.newest_timeline
    if not reaches:
        hint = f"look at `fsbackup pg-status {found.cluster}`"
        if not found.together.bases and not any(each.error for each in found.backends.values()):
            hint = f"run `fsbackup base-backup {found.cluster}` first"
        raise ConfigError(f"nothing can be recovered from {found.prefix}: {'; '.join(found.problems)}", hint=hint)
    wanted = newest if timeline is None or timeline == "latest" else timeline
    here = [each for each in reaches if each.timeline == wanted]
    fitting = [each for each in here if to is None or each.has(to.timestamp())]
    if timeline is None and to is not None and (others := _others(archive, reaches, to)):
        raise _ambiguous(to, wanted, fitting, others)
    if not here:
        raise _unreachable(found, wanted)
    if to is not None and not fitting:
        raise _outside(found, to, wanted)
    return max(fitting, key=lambda each: (each.position if to is None else "", each.begin))


def alternatives(found: ArchiveStatus) -> dict[int, str]:
    """Return the timelines that have WAL which the way to the end of the newest one leaves out, each with what it
    has.
    """
    return {
        each.timeline: f"{_described(each)}: --timeline {each.timeline} recovers that"
        for each in found.together.reaches
        if each.fork is not None
    }


def _others(archive: Archive, reaches: Sequence[Window], to: datetime) -> list[Window]:
    """Return what other timelines than the newest have of a moment at which they may have diverged from it."""
    having = {each.timeline: each for each in reaches if each.fork is not None and each.has(to.timestamp())}
    return [each for each in having.values() if each.fork and _may_be_behind(archive, each.fork, to.timestamp())]


def _may_be_behind(archive: Archive, fork: Fork, when: float) -> bool:
    """Return whether a commit of that time may be one behind the position at which two timelines diverge."""
    if fork.at is not None:
        return when >= fork.at
    written = None if fork.before is None else run(_written_at(archive, fork.before))
    return written is None or when > written - _SLACK


async def _written_at(archive: Archive, name: str) -> float | None:
    """Return when a segment was last written to, as its record says; None where nothing tells.

    Not when a backend has got it: that may have been after an outage, or the loss of another backend.
    """
    with suppress(FsbackupError):
        file = await find_wal(archive.targets, archive.prefix, lambda each: each.name.text == name, begin=name)
        manifest = None if file is None else (await stat(archive.targets, file.key)).manifest
        if manifest is not None and (written := manifest.source.mtime_ns) is not None:
            return min(written / 1e9, manifest.created_timestamp)
    return None


def _ambiguous(to: datetime, newest: int, fitting: Sequence[Window], others: Sequence[Window]) -> ConfigError:
    told = "; ".join(_described(each).removeprefix("timeline ") for each in others)
    choices = " or ".join(f"--timeline {each.timeline}" for each in others)
    if not fitting:
        return ConfigError(
            f"{to.isoformat()} is not on timeline {newest}, the newest, but on {told}",
            hint=f"if that is what you want: {choices}",
        )
    return ConfigError(
        f"more than one timeline has {to.isoformat()}, and they may differ by then: {newest}, the newest, and "
        f"{told}",
        hint=f"choose: --timeline {newest} (or latest), or {choices}; before they diverge, both give the same",
    )


def _unreachable(found: ArchiveStatus, wanted: int) -> ConfigError:
    reaches, newest = found.together.reaches, found.together.newest_timeline
    known = {*found.together.timelines, *(each.timeline for each in reaches), newest}
    if wanted not in known:
        numbers = ", ".join(map(str, sorted(known)))
        return ConfigError(f"the archive {found.prefix} has no timeline {wanted}", hint=f"it has {numbers}")
    leading = sorted({each.timeline for each in reaches})
    choices = "; ".join(f"--timeline {each} recovers {_periods(found, each)}" for each in leading)
    return ConfigError(
        f"no base backup leads to timeline {wanted}: it takes one of it, or one that ended before it branched off",
        hint=f"`fsbackup pg-status {found.cluster}` says what is wrong; {choices}",
    )


def _outside(found: ArchiveStatus, to: datetime, wanted: int) -> ConfigError:
    on = f" on timeline {wanted}" if any(each.timeline != wanted for each in found.together.reaches) else ""
    return ConfigError(
        f"{to.isoformat()} is outside of what can be recovered{on}: {_periods(found, wanted)}",
        hint="the first moment is the end of a base backup, the last is when the newest segment was archived, "
        "which is after its last commit; without --to, all that is archived is recovered",
    )


def _described(window: Window) -> str:
    """Say what a timeline has that the newest does not have."""
    assert window.fork is not None
    when = "" if window.fork.at is None else f" ({_said(window.fork.at)})"
    return (
        f"timeline {window.timeline} diverges from the newest at {window.fork.position}{when}, and has WAL of its "
        f"own up to {_said(window.end)}"
    )


def _periods(found: ArchiveStatus, timeline: int) -> str:
    windows = found.together.windows_on(timeline)
    return "; ".join(f"{_said(each.begin)} to {_said(each.end)}" for each in windows)


def _said(epoch: float | None) -> str:
    return "?" if epoch is None else clock.local(epoch).isoformat(timespec="milliseconds")
