"""The local copy as it has to be made by hand beside an S3 client."""

from __future__ import annotations

import os
import shutil

from tests.benchmarks.task import Task


def copy_locally(task: Task) -> None:
    """Copy the files into the task's directory, safely on the disk when this returns."""
    if task.local is None:
        return
    for name, path in zip(task.files, task.paths(), strict=True):
        target = task.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        with target.open("rb+") as written:
            os.fsync(written.fileno())
