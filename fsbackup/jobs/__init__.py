"""Jobs: what a configuration says to back up, found, named and stored."""

from fsbackup.jobs.entries import Found, Missed, Skipped, SourceFile
from fsbackup.jobs.plan import Planned, plan_job
from fsbackup.jobs.report import BackendTally, FileOutcome, JobReport
from fsbackup.jobs.run import run_job
from fsbackup.jobs.sources import find_files

__all__ = [
    "BackendTally",
    "FileOutcome",
    "Found",
    "JobReport",
    "Missed",
    "Planned",
    "Skipped",
    "SourceFile",
    "find_files",
    "plan_job",
    "run_job",
]
