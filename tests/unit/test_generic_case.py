"""A server that does not tell upper from lower case apart: another key's object is another object."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from fsbackup import GenericStorage, ReplicatedStorage
from fsbackup.errors import ConflictError


class CaselessFileSystem(MemoryFileSystem):  # type: ignore[misc]  # the library has no types
    """Finds every path by its letters alone."""

    protocol = "caseless"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        plain = str(super()._strip_protocol(path.replace("caseless://", "memory://")))
        return next((each for each in cls.store if each.lower() == plain.lower()), plain)


def test_the_first_object_stays(tmp_path: Path) -> None:
    """Neither an overwrite nor a delete of a key reaches that of one which differs by case."""
    fsspec.register_implementation("caseless", CaselessFileSystem, clobber=True)
    store = ReplicatedStorage([GenericStorage("caseless://x", name="share")], errors="raise")
    for key in ("DB.sql", "db.sql"):
        (tmp_path / key).write_text(key)
    assert store.replicate(tmp_path / "DB.sql", "DB.sql")
    refused = store.replicate(tmp_path / "db.sql", "db.sql", overwrite=True)
    assert isinstance(refused.replicas["share"].exception, ConflictError)
    assert "differs only by case" in str(refused.replicas["share"].exception)
    store.remove("db.sql")
    assert store.read("DB.sql") == b"DB.sql"
    assert store.replicate(tmp_path / "db.sql", "DB.sql", overwrite=True)
    assert store.remove("DB.sql")
