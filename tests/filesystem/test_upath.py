"""`UPath("fsbackup://SET/KEY")`: a path as pathlib has it, with the set as its drive."""

from __future__ import annotations

import pickle
import secrets
import subprocess
import sys

import pytest
from upath import UPath

from tests.filesystem.configured_set import ROOT, SET, ConfiguredSet


@pytest.fixture
def folder(disks: ConfiguredSet) -> UPath:
    """Return a directory that is not there."""
    return UPath(f"fsbackup://{ROOT}/{secrets.token_hex(4)}", **disks.options)


def test_in_a_process_that_has_not_loaded_it() -> None:
    """Whoever knows only universal-pathlib gets the right names, and no warning."""
    code = (
        "from upath import UPath; path = UPath('fsbackup://triple/u/c.csv');"
        "print(type(path).__name__, path.name, path.stem, path.parent, path.drive)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["FsbackupPath", "c.csv", "c", "fsbackup://triple/u", "triple"]


def test_names(folder: UPath) -> None:
    path = folder / "deep" / "c.tar.gz"
    assert (path.name, path.stem, path.suffix, path.suffixes) == ("c.tar.gz", "c.tar", ".gz", [".tar", ".gz"])
    assert path.parts == (f"{SET}/", *folder.parts[1:], "deep", "c.tar.gz")
    assert str(path.relative_to(folder)) == "deep/c.tar.gz"
    assert path.with_name("d").parent == path.parent == folder / "deep"
    assert path.with_suffix(".zst").name == "c.tar.zst"
    assert str(path.parents[-1]) == f"fsbackup://{SET}/"
    assert pickle.loads(pickle.dumps(path)) == path


def test_files_and_directories(folder: UPath) -> None:
    """Written, listed, renamed, copied, removed."""
    assert not folder.exists()
    folder.mkdir()
    assert folder.is_dir()
    (folder / "a.csv").write_text("1")
    (folder / "deep/b.csv").write_bytes(b"22")
    (folder / "empty").touch()
    assert sorted(each.name for each in folder.iterdir()) == ["a.csv", "deep", "empty"]
    assert sorted(each.name for each in folder.rglob("*.csv")) == ["a.csv", "b.csv"]
    assert (folder / "deep/b.csv").stat().st_size == 2
    (folder / "a.csv").rename(folder / "c.csv")
    (folder / "c.csv").copy(folder / "d.csv")
    assert (folder / "d.csv").read_text() == (folder / "c.csv").read_text() == "1"
    (folder / "c.csv").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "c.csv").read_text()
    with pytest.raises(FileExistsError):
        folder.mkdir()
