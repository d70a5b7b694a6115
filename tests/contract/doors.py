"""Side doors: the places of the contract tests, seen without the library."""

from __future__ import annotations

from pathlib import Path

from fsbackup.testing import SideDoor


def directory_door(base: Path) -> SideDoor:
    """Return the side door into a directory."""
    return SideDoor(
        put=lambda name, data: _put(base / name, data),
        get=lambda name: (base / name).read_bytes() if (base / name).is_file() else None,
        names=lambda: {str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir()},
    )


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
