"""Jobs: what a configuration says to back up, found, named and stored."""

from fsbackup.jobs.plan import Planned, plan_job
from fsbackup.jobs.report import BackendCounts, FileResult, JobReport
from fsbackup.jobs.run import run_job
from fsbackup.jobs.sources import Note, Skipped, SourceEntry, SourceFile, Unreadable, find_files

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
