"""The command line as a real process, in a directory of its own with three disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsbackup
from tests.integration.warm_cli import warm_cli
from tests.replication.raw_replicas import MARKER, RawDisk, mark

CONFIG = """\
version: 1
backends:
  disk1: {type: local, path: disk1}
  disk2: {type: local, path: disk2}
  disk3: {type: local, path: "${THIRD:-disk3}"}
replication:
  triple: {backends: [disk1, disk2, disk3], min_copies: 2}
jobs:
  tree: {source: {path: source/}, destination: "t/{relpath}", replication: triple}
  note: {source: {path: note}, destination: "n/{name}", replication: triple}
"""

#: Seconds: long enough for a busy machine; a test that passes never waits that long.
TIMEOUT = 60.0


@dataclass(frozen=True)
class Completed:
    """A finished process."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return standard output as one JSON document."""
        return json.loads(self.out)

    def lines(self) -> list[dict[str, Any]]:
        """Return standard output as JSON, one object per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """`fsbackup` in a directory.

    Parameters
    ----------
    home
        The directory with ``fsbackup.yaml``, the disks and the sources.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / ".state"),
            "PYTHONPATH": str(Path(fsbackup.__file__).parents[1]),
        }
        (home / "fsbackup.yaml").write_text(CONFIG)
        (home / "note").write_text("a note")
        for name in ("a", "b/c", "b/d"):
            (home / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (home / "source" / name).write_text(name * 100)

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None) -> Completed:
        """Run a command to its end."""
        environ = {**self.environ, **(env or {})}
        if any(name.startswith("PYTHON") for name in env or {}):  # read when an interpreter starts
            return self._run_fresh(arguments, environ)
        warm = warm_cli(*((name, self.environ[name]) for name in ("PATH", "PYTHONPATH")))
        code, out, err = warm.run(arguments, self.home, environ, TIMEOUT)
        return Completed(code, os.fsdecode(out), os.fsdecode(err))

    def _run_fresh(self, arguments: tuple[str, ...], environ: Mapping[str, str]) -> Completed:
        process = subprocess.run(
            self.command(*arguments),
            cwd=self.home,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT,
        )
        return Completed(process.returncode, os.fsdecode(process.stdout), os.fsdecode(process.stderr))

    @contextmanager
    def started(self, *arguments: str, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command and kill it after the block; its standard streams are unbuffered pipes by default."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        command = self.command(*arguments)
        with subprocess.Popen(command, cwd=self.home, env=self.environ, bufsize=0, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    @staticmethod
    def command(*arguments: str) -> list[str]:
        """Return the whole command."""
        return [sys.executable, "-m", "fsbackup", *arguments]

    def break_third(self) -> dict[str, str]:
        """Return an environment in which the third disk, in use as the others, can be neither read nor written."""
        for number in range(1, 4):
            raw = RawDisk(self.home / f"disk{number}")
            if raw.get(MARKER) is None:
                raw.put(MARKER, mark(number))
        (self.home / "no-directory").touch()
        return {"THIRD": "no-directory/disk3"}

    def stored(self, disk: str) -> dict[str, bytes]:
        """Return the objects on a disk, by key."""
        root = self.home / disk
        paths = (path for path in root.rglob("*") if path.is_file() and ".fsbackup" not in path.parts)
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}

    def temp_files(self) -> list[Path]:
        """Return the temp files of uploads on all disks."""
        return [path for disk in self.home.glob("disk?") for path in disk.rglob("*.fsbackup-tmp")]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until `condition` is true; fail after `TIMEOUT`."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether a process is there, and not just a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
