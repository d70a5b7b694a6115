"""`fsbackup pg-status`: what a cluster's archive has, what it lacks, and how far back one can go."""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from typing import TYPE_CHECKING

from fsbackup.cli import exits, render
from fsbackup.cli.command import Command, open_archive, seconds

if TYPE_CHECKING:
    from fsbackup.postgres.coverage import Window
    from fsbackup.postgres.status import ArchiveStatus, Holding


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cluster", metavar="NAME", help="the cluster, as `postgres` in the configuration calls it")
    parser.add_argument(
        "--max-lag",
        type=seconds,
        metavar="TIME",
        help="fail if the newest segment was archived longer ago (10m); archive_timeout bounds that "
        "where something is written: an idle server archives nothing",
    )


def _execute(args: Namespace) -> int:
    archive, _ = open_archive(args, reading=True)
    from fsbackup.postgres.status import survey

    status = survey(archive, max_lag=args.max_lag)
    return exits.of_report(args, status, lambda: _print(status))


def _print(status: ArchiveStatus) -> None:
    whose = f", cluster {status.system_identifier}" if status.system_identifier else ""
    render.print_line(f"{status.cluster}: {status.prefix}/{whose}")
    rows = [_row(name, each) for name, each in status.backends.items()]
    bases: list[render.Row] = [
        {"base backup": base.label, "ended": render.time(base.stopped), "needs WAL from": base.segment}
        for base in status.together.bases
    ]
    tables = [rows, *filter(None, (bases, _timelines(status.together)))]
    render.print_report(*tables, problems=_problems(status), verdict=_verdict(status))


def _timelines(together: Holding) -> list[render.Row]:
    """Return the window of each timeline that has WAL of its own; nothing where there is one such timeline."""
    forks = {each.timeline: each.fork.position for each in together.reaches if each.fork is not None}
    shown = sorted({*forks, together.newest_timeline}) if forks else []
    return [
        {
            "timeline": str(timeline),
            "diverges from the newest at": forks.get(timeline, "it is the newest"),
            "window": "; ".join(map(_period, together.windows_on(timeline))) or "none",
        }
        for timeline in shown
    ]


def _row(name: str, each: Holding) -> render.Row:
    if each.error is not None:
        return {"backend": name, "bases": "?", "segments": "unreachable", "window": "?"}
    runs = [_run(*run) for timeline in each.timelines.values() for run in timeline]
    return {
        "backend": name,
        "bases": str(len(each.bases)),
        "segments": ", ".join(runs) or "none",
        "window": "; ".join(map(_period, each.windows)) or "none",
    }


def _run(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _period(window: Window) -> str:
    """Return a period in seconds, each of which `pg-restore --to` takes: rounded up at its beginning.

    One without a whole second is given as it is.
    """
    begin, end = math.ceil(window.begin), window.end
    if end is not None and end < begin:
        return f"{_said(window.begin, 'milliseconds')} to {_said(end, 'milliseconds')}"
    return f"{_said(begin)} to {_said(end)}"


def _said(epoch: float | None, precision: str = "seconds") -> str:
    from fsbackup import clock

    return "?" if epoch is None else clock.local(epoch).isoformat(" ", precision)


def _problems(status: ArchiveStatus) -> list[str]:
    problems = render.reasons({name: each.error for name, each in status.backends.items()})
    problems += status.problems
    for name, each in status.backends.items():
        own = [gap for gap in each.gaps if gap not in status.together.gaps]
        problems += [f"{name}: gap: {gap}, which another backend has" for gap in own]
        lacking = [f"the base backup {base.label}" for base in status.together.bases if base not in each.bases]
        lacking += [f"{n:08X}.history" for n in status.together.histories if n not in each.histories]
        if lacking and each.error is None:
            problems.append(f"{name}: without {', '.join(lacking)}")
    if status.together.unfinished:
        problems.append(f"unfinished base backups: {', '.join(status.together.unfinished)}")
    return problems


def _verdict(status: ArchiveStatus) -> str:
    windows = status.together.windows
    where = [name for name, each in status.backends.items() if windows and _reaches_as_far(each, status.together)]
    periods = " and from ".join(map(_period, windows))
    reach = f"any archived commit from {periods} can be recovered" if windows else "nothing can be recovered"
    alone = f"from {' or '.join(where)} alone" if where else ""
    away = [name for name, each in status.backends.items() if each.error]
    return render.verdict(
        status.status,
        reach,
        alone,
        _drilled(status.drilled_at),
        render.unreachable(away),
        next_step="" if status.status == "complete" else _next_step(status, bool(away)),
    )


def _drilled(when: float | None) -> str:
    from fsbackup import clock

    return "no drill has shown it yet" if when is None else f"last drilled {render.age(clock.now() - when)} ago"


def _reaches_as_far(each: Holding, together: Holding) -> bool:
    """Return whether one backend alone can recover what all together can.

    Where a window ends, its last segment tells: each backend has times of its own.
    """
    own = {(window.begin, window.timeline, window.last) for window in each.reaches}
    return all((window.begin, window.timeline, window.last) in own for window in together.windows)


def _next_step(status: ArchiveStatus, is_any_away: bool) -> str:
    if not status.together.bases:
        return f"`fsbackup base-backup {status.cluster}`"
    if status.together.gaps:
        return f"`fsbackup base-backup {status.cluster}`: from its end on, every commit can be recovered again"
    return "" if is_any_away or status.problems else "`fsbackup repair` brings the backends to the same"


COMMAND = Command(
    name="pg-status",
    summary="show how far back a PostgreSQL cluster can be recovered, and from which backend",
    description="Lists the archive of a cluster: base backups, timelines and segments of each backend, and the "
    "window, of which every archived commit can be recovered. It begins at the end of the oldest base backup "
    "whose WAL is there, and ends when the newest segment was archived. The last commit is earlier, and for a "
    "target behind it PostgreSQL ends with FATAL: `pg-restore` without --to recovers everything. Where two "
    "timelines have commits of their own, as when an old server went on after a failover, it gives the window of "
    "each, which `pg-restore --timeline` takes. The exit code is 1 if a segment is missing on all backends (it is "
    "named), no base backup is complete, none leads to the newest timeline, or with --max-lag the newest segment "
    "is too old; 3 if a backend is away, or lacks what another one has.",
    examples=(
        "fsbackup pg-status shop",
        "fsbackup pg-status shop --max-lag 10m -q",
        "fsbackup pg-status shop --json",
    ),
    add_arguments=_add_arguments,
    execute=_execute,
)
