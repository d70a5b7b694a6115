"""What `fsbackup run` tells people: what goes where, what was stored, what is wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsbackup.cli import prune, render

if TYPE_CHECKING:
    from fsbackup.config import Config
    from fsbackup.jobs import BackendCounts, FileResult, JobReport

#: Failed files named below the table.
_NAMED = 20


def job_header(config: Config, name: str) -> str:
    """Return what the job stores, and where."""
    job = config.jobs[name]
    backends = ", ".join(config.replication[job.replication].backends)
    return f"{name}: {job.source.path} -> {job.replication} ({backends})"


def file_line(outcome: FileResult) -> str:
    """Return how one file fared."""
    name = outcome.path if outcome.key is None else outcome.key
    return f"  {outcome.status:<9}{render.one_line(name)}" + (f": {outcome.error}" if outcome.error else "")


def print_job(report: JobReport) -> None:
    """Print the table of backends, the files that failed, and the verdict."""
    render.print_line()
    rows = [["backend", "stored", "already there", "failed", "sent", "seconds", "status", "location"]]
    rows += [_row(name, tally) for name, tally in report.backends.items()]
    render.print_table(rows, right=(1, 2, 3, 4, 5))
    render.print_line()
    failed = sorted((each for each in report.problems if each.status == "failed"), key=lambda each: each.path)
    for problem in failed[:_NAMED]:
        render.print_line(f"not backed up: {_why(problem)}")
    if failed and report.failed > _NAMED:
        render.print_line(f"... and {render.count(report.failed - _NAMED, 'more file')}, -v names each")
    render.print_line(job_verdict(report))


def _why(problem: FileResult) -> str:
    """Return the path and what is wrong; errors of the source name the path themselves."""
    error = problem.error or ""
    return render.one_line(error if problem.path in error else f"{problem.path}: {error}")


def _row(name: str, tally: BackendCounts) -> list[str]:
    good = tally.stored + tally.already
    status = ("incomplete" if good else "failed") if tally.failed else "ok" if good else "-"
    return [
        name,
        f"{tally.stored:,}",
        f"{tally.already:,}",
        f"{tally.failed:,}",
        render.size(tally.bytes_sent),
        f"{tally.seconds:.1f}",
        status,
        tally.location,
    ]


def job_verdict(report: JobReport) -> str:
    """Return the last line: is it backed up, and if not, what to do."""
    say = {"complete": _complete, "degraded": _degraded, "failed": _failed}[report.stored_status]
    return f"{report.status}: {say(report)}{_pruned(report)}"


def _failed(report: JobReport) -> str:
    return (
        f"{report.failed:,} of {render.count(report.files, 'file')} not backed up{_reasons(report)}. "
        "Mend that and run the job again: what is stored is not sent again."
    )


def _pruned(report: JobReport) -> str:
    if report.prune is None:
        return ""
    where = f"{report.prune.prefix} --set {report.replication}".lstrip()
    why = f" (`fsbackup prune {where} --dry-run` says why)" * (report.prune.status != "complete")
    return f"; pruned: {prune.done(report.prune)}{why}"


def _complete(report: JobReport) -> str:
    places = render.count(len(report.backends), "place")
    if not report.files:
        return "the source is empty, which this job allows; nothing was sent"
    if not report.stored:
        return f"{_all(report)} in {places} already, nothing was sent"
    files = f"{render.count(report.files, 'file')}, {render.size(report.bytes_read)}"
    return f"{files}, every copy confirmed in {places}{_skipped(report)}"


def _all(report: JobReport) -> str:
    return "the file was" if report.files == 1 else f"all {render.count(report.files, 'file')} were"


def _skipped(report: JobReport) -> str:
    what = "link or special file"
    return f" ({render.count(report.skipped, what, 'links or special files')} skipped, -v names them)" * bool(
        report.skipped
    )


def _degraded(report: JobReport) -> str:
    return (
        f"all {render.count(report.files, 'file')} are stored, {report.degraded:,} of them not in every place"
        f"{_reasons(report)}. Mend that and run the job again: only what is missing is sent."
    )


def _reasons(report: JobReport) -> str:
    errors = [tally.error for tally in report.backends.values() if tally.error]
    return f" (for example {'; '.join(render.one_line(error) for error in errors)})" if errors else ""


def plan_verdict(planned: int, missed: int, where: list[str]) -> str:
    """Return the last line of a dry run."""
    line = f"dry run: {render.count(planned, 'file')} would be stored in {', '.join(where)}; nothing was sent"
    return f"{line}. {render.count(missed, 'file')} cannot be backed up" if missed else line
