"""The contract of the five methods of a `StorageBackend`, in both error modes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from fsbackup.backends.base import ErrorMode, StorageBackend
from fsbackup.errors import BackendError, ObjectNotFoundError, ReplicationError, SourceNotFoundError
from fsbackup.keys import encode_key
from fsbackup.sizing import DEFAULT_PART_SIZE
from fsbackup.testing.driving import random_bytes
from fsbackup.testing.naming import ODD_KEYS
from fsbackup.testing.place import BackendPlace

_MODES: tuple[ErrorMode, ...] = ("return", "raise")
_WRONG_KEYS = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "a/./b",
    "a\0b",
    ".fsbackup/x",
    "x" * 5000,
)

_METHODS: dict[str, Callable[[StorageBackend, str, Path], object]] = {
    "upload": lambda backend, key, path: backend.upload(path, key),
    "download": lambda backend, key, path: backend.download(key, path.with_name("target")),
    "exists": lambda backend, key, _: backend.exists(key),
    "delete": lambda backend, key, _: backend.delete(key),
    "get_size": lambda backend, key, _: backend.get_size(key),
}


class StorageBackendContract:
    """Upload, download, exists, delete, get_size: what they return, and what they do on a failure.

    A subclass defines the fixture `place`.
    """

    #: Sizes of the files to upload and download: empty, small, and more than one part.
    sizes: ClassVar[tuple[int, ...]] = (0, 1, 1000, 2 * DEFAULT_PART_SIZE + 1)

    @pytest.fixture
    def place(self) -> BackendPlace:
        """Return empty storage; a subclass must define it."""
        raise NotImplementedError("a subclass of the contract must define the fixture `place`")

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Return a file to back up."""
        path = tmp_path / "source" / "db.sql.gz"
        path.parent.mkdir()
        path.write_bytes(b"a database")
        return path

    def test_round_trip(self, place: BackendPlace, source: Path) -> None:
        """A download returns the uploaded bytes of any size, and the object is stored under its own name."""
        backend = place.backend("return")
        for size in self.sizes:
            data = random_bytes(size, seed=size)
            source.write_bytes(data)
            assert backend.upload(source, f"backups/{size}.gz") is True
            assert place.raw.get(f"backups/{size}.gz") == data
            assert backend.get_size(f"backups/{size}.gz") == size
            assert backend.download(f"backups/{size}.gz", source.with_name("copy")) is True
            assert source.with_name("copy").read_bytes() == data

    def test_upload_replaces(self, place: BackendPlace, source: Path) -> None:
        """A second upload under one key replaces the first."""
        backend = place.backend("return")
        assert backend.upload(source, "db.gz") is True
        source.write_bytes(b"another database")
        assert backend.upload(source, "db.gz") is True
        assert (place.raw.get("db.gz"), backend.get_size("db.gz")) == (b"another database", 16)

    def test_exists_and_delete(self, place: BackendPlace, source: Path) -> None:
        """An object exists from its upload to its delete, and deleting again is success."""
        backend = place.backend("raise")
        assert (backend.exists("dir/db.gz"), backend.get_size("dir/db.gz")) == (False, None)
        backend.upload(source, "dir/db.gz")
        assert (backend.exists("dir/db.gz"), backend.get_size("dir/db.gz")) == (True, 10)
        assert (backend.exists("dir"), backend.exists("dir/db")) == (False, False)
        assert (backend.delete("dir/db.gz"), backend.delete("dir/db.gz")) == (True, True)
        assert (backend.exists("dir/db.gz"), backend.get_size("dir/db.gz")) == (False, None)
        assert place.raw.get("dir/db.gz") is None

    def test_delete_takes_one_key(self, place: BackendPlace, source: Path) -> None:
        """Deleting a key leaves keys that begin with it or that it would match as a pattern."""
        backend, stay = place.backend("raise"), ["dir/a.gz", "dir/ab", "dir/abc", "dir/b"]
        for key in [*stay, "dir/a*", "dir/a"]:
            backend.upload(source, key)
        assert (backend.delete("dir/a*"), backend.delete("dir/a"), backend.delete("dir")) == (True, True, True)
        assert [key for key in [*stay, "dir/a*", "dir/a"] if backend.exists(key)] == stay

    def test_odd_keys_round_trip(self, place: BackendPlace, source: Path) -> None:
        """Any key works for every method and is stored under its encoded name."""
        backend = place.backend("raise")
        for key in (key for key in ODD_KEYS if len(key) < 100):
            assert backend.upload(source, key) is True, f"{key!r} was not uploaded"
            assert place.raw.get(encode_key(key)) == b"a database", f"{key!r} is not under its name"
            assert (backend.exists(key), backend.get_size(key)) == (True, 10), f"{key!r} is not found"
            assert backend.download(key, source.with_name("copy")) is True, f"{key!r} is not downloaded"
            assert backend.delete(key) is True, f"{key!r} was not deleted"
            assert place.raw.get(encode_key(key)) is None, f"{key!r} is still there"

    def test_download_of_a_missing_key(self, place: BackendPlace, source: Path) -> None:
        """Downloading a missing key fails, and leaves the local file as it was and nothing beside it."""
        assert place.backend("return").download("missing", source) is False
        with pytest.raises(ObjectNotFoundError) as caught:
            place.backend("raise").download("missing", source)
        assert caught.value.key == "missing"
        assert (source.read_bytes(), list(source.parent.iterdir())) == (b"a database", [source])

    def test_upload_of_a_missing_file(self, place: BackendPlace, source: Path) -> None:
        """Uploading a missing file fails and stores nothing."""
        assert place.backend("return").upload(source.with_name("missing"), "db.gz") is False
        with pytest.raises(SourceNotFoundError):
            place.backend("raise").upload(source.with_name("missing"), "db.gz")
        assert place.raw.all_names() == set()

    @pytest.mark.parametrize("mode", _MODES)
    def test_directories_are_wrong_use(self, place: BackendPlace, source: Path, mode: ErrorMode) -> None:
        """A directory instead of a file raises `ValueError` in both error modes."""
        backend = place.backend(mode)
        with pytest.raises(ValueError, match="directory"):
            backend.upload(source.parent, "db.gz")
        with pytest.raises(ValueError, match="directory"):
            backend.download("db.gz", source.parent)
        assert place.raw.all_names() == set()

    @pytest.mark.parametrize("method", _METHODS)
    @pytest.mark.parametrize("mode", _MODES)
    def test_wrong_keys_are_wrong_use(
        self, place: BackendPlace, source: Path, method: str, mode: ErrorMode
    ) -> None:
        """An invalid key raises `ValueError` in both error modes."""
        backend = place.backend(mode)
        for key in _WRONG_KEYS:
            with pytest.raises(ValueError, match="key"):
                _METHODS[method](backend, key, source)
        assert place.raw.all_names() == set()

    @pytest.mark.parametrize("method", _METHODS)
    def test_failure_is_returned(self, place: BackendPlace, source: Path, method: str) -> None:
        """With ``errors="return"`` a failing backend returns False, or None for a size."""
        answer = _METHODS[method](place.broken("return"), "db.gz", source)
        assert answer is (None if method == "get_size" else False)

    @pytest.mark.parametrize("method", _METHODS)
    def test_failure_is_raised(self, place: BackendPlace, source: Path, method: str) -> None:
        """With ``errors="raise"`` a failing backend raises, and never `ObjectNotFoundError`."""
        with pytest.raises((BackendError, ReplicationError)) as caught:
            _METHODS[method](place.broken("raise"), "db.gz", source)
        assert not isinstance(caught.value, FileNotFoundError)
        assert not source.with_name("target").exists()
