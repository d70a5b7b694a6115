"""Jobs: what a configuration says to back up, found, named and stored."""

from fsbackup.jobs.entries import SourceEntry, Unreadable, Skipped, SourceFile
from fsbackup.jobs.plan import Planned, plan_job
from fsbackup.jobs.report import BackendCounts, FileResult, JobReport
from fsbackup.jobs.run import run_job
from fsbackup.jobs.sources import find_files

__all__ = [
    "BackendCounts",
    "FileResult",
    "SourceEntry",
    "JobReport",
    "Unreadable",
    "Planned",
    "Skipped",
    "SourceFile",
    "find_files",
    "plan_job",
    "run_job",
]
