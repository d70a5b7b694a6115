"""Access to the storage of the contract tests without fsbackup."""

from __future__ import annotations

from pathlib import Path

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from fsbackup.testing import RawAccess


def directory_access(base: Path) -> RawAccess:
    """Return raw access to a directory."""
    return RawAccess(
        put=lambda name, data: _put(base / name, data),
        get=lambda name: (base / name).read_bytes() if (base / name).is_file() else None,
        names=lambda: {str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir()},
    )


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def memory_access(root: str) -> RawAccess:
    """Return raw access to fsspec's memory filesystem, which is a dictionary."""
    store, prefix = MemoryFileSystem.store, f"/{root}/"
    return RawAccess(
        put=lambda name, data: MemoryFile(MemoryFileSystem(), prefix + name, data).commit(),
        get=lambda name: store[prefix + name].getvalue() if prefix + name in store else None,
        names=lambda: {name.removeprefix(prefix) for name in store if name.startswith(prefix)},
    )
