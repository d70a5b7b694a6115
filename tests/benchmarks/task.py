"""What a contender is asked to do, as it is passed from the benchmark to the contender's own process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.servers.endpoint import S3Endpoint


@dataclass(frozen=True)
class Task:
    """Store `files` below `source` under the same keys in each bucket, and in the directory `local` if given.

    `scratch` is an empty directory for whatever the contender needs besides. `roles` says as which provider
    fsbackup treats each endpoint, `count` how many ranges to read.
    """

    source: Path
    files: Sequence[str]
    endpoints: Sequence[S3Endpoint]
    roles: Sequence[str]
    local: Path | None
    scratch: Path
    count: int = 0

    def paths(self) -> list[Path]:
        """Return the files' paths."""
        return [self.source / name for name in self.files]

    @property
    def back(self) -> Path:
        """Where a file that is read back goes."""
        return self.scratch / "back"

    def dump(self) -> str:
        """Return the task as JSON."""
        return json.dumps(asdict(self), default=str)


def load(text: str) -> Task:
    """Return the task in `text`."""
    fields = json.loads(text)
    endpoints = [S3Endpoint(**endpoint) for endpoint in fields.pop("endpoints")]
    source, scratch, local = (fields.pop(name) for name in ("source", "scratch", "local"))
    return Task(
        source=Path(source), scratch=Path(scratch), local=local and Path(local), endpoints=endpoints, **fields
    )
