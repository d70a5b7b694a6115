"""Jobs: what a configuration says to back up, found, named and stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsbackup.lazy import names_of

if TYPE_CHECKING:
    from fsbackup.jobs.plan import Planned, plan_job
    from fsbackup.jobs.report import BackendCounts, FileResult, JobReport
    from fsbackup.jobs.run import run_job
    from fsbackup.jobs.sources import Note, Skipped, SourceEntry, SourceFile, Unreadable, find_files

_MODULES = {
    "BackendCounts": "fsbackup.jobs.report",
    "FileResult": "fsbackup.jobs.report",
    "JobReport": "fsbackup.jobs.report",
    "Note": "fsbackup.jobs.sources",
    "Planned": "fsbackup.jobs.plan",
    "Skipped": "fsbackup.jobs.sources",
    "SourceEntry": "fsbackup.jobs.sources",
    "SourceFile": "fsbackup.jobs.sources",
    "Unreadable": "fsbackup.jobs.sources",
    "find_files": "fsbackup.jobs.sources",
    "plan_job": "fsbackup.jobs.plan",
    "run_job": "fsbackup.jobs.run",
}

__all__ = [
    "BackendCounts",
    "FileResult",
    "JobReport",
    "Note",
    "Planned",
    "Skipped",
    "SourceEntry",
    "SourceFile",
    "Unreadable",
    "find_files",
    "plan_job",
    "run_job",
]

__getattr__ = names_of(__name__, _MODULES)
