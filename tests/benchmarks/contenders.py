"""Who takes part, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.benchmarks import programs
from tests.benchmarks.measure import Command
from tests.benchmarks.task import Task
from tests.benchmarks.worker import command

Contender = Callable[[Task], list[Command]]

#: What the others are compared with: today's practice, and the quickest library there is.
PRACTICE = "boto3 in turn"
QUICKEST = "obstore"
BACK_PRACTICE = "boto3"

#: What consumers read, and from which filesystem.
READS = ("parquet", "csv", "whole", "together", "seeks", "cats")
PLAIN = "s3fs"


def _python(module: str, function: str) -> Contender:
    return lambda task: [command(module, function, task)]


#: One large file to a directory and two buckets.
LARGE: Mapping[str, Contender] = {
    "fsbackup": _python("ours", "one"),
    PRACTICE: _python("boto", "in_turn"),
    "boto3 in threads": _python("boto", "in_threads"),
    "s3fs in threads": _python("s3fs_client", "in_threads"),
    "rclone union": programs.rclone_union,
    "three rclone": programs.rclone_three,
    "s5cmd": programs.s5cmd,
    QUICKEST: _python("obstore_client", "in_threads"),
}

#: Many small files to one bucket.
SMALL: Mapping[str, Contender] = {
    "fsbackup": _python("ours", "many"),
    PRACTICE: _python("boto", "in_turn"),
    "s3fs": _python("s3fs_client", "many"),
    "rclone": programs.rclone_many,
    QUICKEST: _python("obstore_client", "many"),
}

#: The same by a job that remembers what it saw.
AGAIN: Contender = _python("ours", "many_again")

#: What stores the file that comes back: fsbackup for all but rclone, which proves what it gets if it has sent it.
STORED: tuple[Contender, ...] = (LARGE["fsbackup"], programs.rclone_own)

#: One large file back from two buckets; the others read from one of them. Only fsbackup and rclone prove it.
BACK: Mapping[str, Contender] = {
    "fsbackup": _python("ours", "back"),
    BACK_PRACTICE: _python("boto", "back"),
    "rclone": programs.rclone_back,
    "rclone, unproven": programs.rclone_unproven,
    "s5cmd": programs.s5cmd_back,
    QUICKEST: _python("obstore_client", "back"),
}


def reading(name: str, read: str) -> Contender:
    """Return the contender `name` of `READERS` for one of `READS`."""
    module, servers = READERS[name]
    return lambda task: [command(module, read, replace(task, endpoints=task.endpoints[:servers]))]


#: Filesystems: the module, and how many of the servers it reads from.
READERS: Mapping[str, tuple[str, int]] = {
    PLAIN: ("read_s3fs", 1),
    "fsbackup, one replica": ("read_fsbackup", 1),
    "fsbackup, two replicas": ("read_fsbackup", 2),
}
