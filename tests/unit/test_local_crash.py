"""kill -9 of a writer at every system call: the old object or the new one, and garbage that listings hide.

A process of its own forks one child per call; the child ends itself with SIGKILL just before or just after its
n-th call. Without the children there is nothing to wait for, so nothing here depends on timing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsbackup.loop import run
from fsbackup.stores.base import WritePlan
from fsbackup.stores.local.atomic_file import AtomicFile
from fsbackup.stores.local.directory import SafeDirectory
from fsbackup.stores.local.store import LocalStore
from fsbackup.testing.driving import list_names
from tests.matrix import matrix

OLD, NEW = b"old" * 1000, b"newer" * 1000
_CALLS = [
    "open",
    "close",
    "mkdir",
    "rmdir",
    "stat",
    "fstat",
    "fstatvfs",
    "pwrite",
    "fdatasync",
    "fchmod",
    "utime",
    "fsync",
    "replace",
    "unlink",
    "link",
]
#: What a replacement is killed in: only itself, or also the end of what it kept of the old object.
_THEN = {"": lambda _: None, "undone": AtomicFile.roll_back, "released": AtomicFile.release}


def _write(base: str, name: str, create_only: bool, then: str) -> None:
    plan = WritePlan(len(NEW), 1000, mode=0o600, mtime_ns=0, create_only=create_only, keep_replaced=bool(then))
    file = AtomicFile(SafeDirectory(base, create=True), name, plan)
    for offset in range(0, len(NEW), 1000):
        file.write(offset, NEW[offset : offset + 1000], lambda _: None)
    file.commit(len(NEW))
    _THEN[then](file)


def _die_at(point: int, after: bool) -> None:
    """Have this process end at its `point`-th call."""
    count = 0

    def deadly(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            last = count == point
            if last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return original(*args, **kwargs)
            finally:
                if last:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in _CALLS:
        setattr(os, name, deadly(getattr(os, name)))


def _kill_at_every_call(root: str, name: str, replacing: bool, create_only: bool, then: str) -> list[str]:
    """Return the bases that the killed children left, until a child survives."""
    bases: list[str] = []
    for after in (False, True):
        for point in range(1, 1000):
            base = os.path.join(root, f"{'after' if after else 'before'}-{point}")
            os.makedirs(os.path.dirname(os.path.join(base, name)) if replacing else base)
            if replacing:
                Path(base, name).write_bytes(OLD)
            child = os.fork()
            if child == 0:
                _die_at(point, after)
                _write(base, name, create_only, then)
                os._exit(0)
            if os.waitpid(child, 0)[1] == 0:
                break
            bases.append(base)
    return bases


@pytest.mark.parametrize(
    ("name", "replacing", "create_only", "then"),
    [
        ("dir/object", True, False, ""),
        matrix("dir/object", True, False, "undone"),
        matrix("dir/object", True, False, "released"),
        matrix("new/dir/object", False, False, ""),
        ("new/dir/object", False, True, ""),
    ],
)
def test_kill_at_every_call(tmp_path: Path, name: str, replacing: bool, create_only: bool, then: str) -> None:
    """Wherever a writer is killed, there is the old object or the new one, whole, and the next write works."""
    here = Path(__file__).parents[2]
    arguments = [str(tmp_path), name, str(int(replacing)), str(int(create_only)), then]
    output = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_local_crash", *arguments],
        env={**os.environ, "PYTHONPATH": str(here)},
        check=True,
        stdout=subprocess.PIPE,
        cwd=here,
    ).stdout
    bases = json.loads(output)
    assert len(bases) > 40
    seen = {_check_one(Path(base), name, replacing, most_garbage=2 if then else 1) for base in bases}
    assert seen == ({OLD, NEW} if replacing else {None, NEW})


def _check_one(base: Path, name: str, replacing: bool, most_garbage: int) -> bytes | None:
    """Return the object that a killed writer left, after a look at everything else."""
    store, path = LocalStore(base), base / name
    found = path.read_bytes() if path.exists() else None
    assert found in ((OLD, NEW) if replacing else (None, NEW)), base.name
    assert run(list_names(store.list())) == ([name] if found else []), base.name
    garbage = [each for each in base.rglob("*") if each.is_file() and each != path]
    assert len(garbage) <= most_garbage, base.name
    assert all(each.name.endswith(".fsbackup-tmp") for each in garbage), base.name
    run(store.put(name, b"next"))
    assert path.read_bytes() == b"next", base.name
    return found


if __name__ == "__main__":
    root, name, replacing, create_only, then = sys.argv[1:]
    print(json.dumps(_kill_at_every_call(root, name, replacing == "1", create_only == "1", then)))
