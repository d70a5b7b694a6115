"""Moves and copies: the object is at its target, also where source and target are one path or share replicas."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from pyarrow.fs import FSSpecHandler, PyFileSystem
from upath import UPath

from fsbackup import ReplicatedStorage
from fsbackup.errors import ConflictError, NoHealthyReplicaError
from fsbackup.filesystem import FsbackupFileSystem
from tests.filesystem.configured_set import ROOT, SET, ConfiguredSet
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Refuse


@pytest.fixture
def top() -> str:
    """Return a directory of one's own."""
    return f"{ROOT}/{secrets.token_hex(4)}"


def copies(path: Path) -> dict[str, bytes]:
    """Return the data below a directory, without fsbackup's records."""
    found = sorted(each for each in path.rglob("*") if each.is_file() and ".fsbackup" not in each.parts)
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


def contents(fs: FsbackupFileSystem, top: str) -> dict[str, bytes]:
    """Return all files below a directory."""
    found: dict[str, bytes] = fs.cat(fs.find(top))
    return found


async def _awaited(fs: FsbackupFileSystem, source: str, target: str) -> None:
    await fs._mv(source, target)


async def _awaited_file(fs: FsbackupFileSystem, source: str, target: str) -> None:
    await fs._mv_file(source, target)


#: Every way to move a file, and to copy one.
MOVES: dict[str, Callable[[FsbackupFileSystem, str, str], Any]] = {
    "mv": lambda fs, source, target: fs.mv(source, target),
    "recursive": lambda fs, source, target: fs.mv(source, target, recursive=True),
    "lists": lambda fs, source, target: fs.mv([source], [target]),
    "move": lambda fs, source, target: fs.move(source, target),
    "rename": lambda fs, source, target: fs.rename(source, target),
    "awaited": lambda fs, source, target: asyncio.run(_awaited(fs, source, target)),
    "awaited file": lambda fs, source, target: asyncio.run(_awaited_file(fs, source, target)),
    "pyarrow": lambda fs, source, target: PyFileSystem(FSSpecHandler(fs)).move(source, target),
}
COPIES: dict[str, Callable[[FsbackupFileSystem, str, str], Any]] = {
    "copy": lambda fs, source, target: fs.copy(source, target),
    "cp": lambda fs, source, target: fs.cp(source, target),
    "cp_file": lambda fs, source, target: fs.cp_file(source, target),
}
#: Ways to write one path.
SPELLINGS = ["{}", "fsbackup://{}", "{}/", "/{}", "fsbackup://{}/"]


@pytest.mark.each_choice
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("how", [*MOVES, *COPIES])
def test_onto_itself(disks: ConfiguredSet, top: str, how: str, spelling: str) -> None:
    """Nothing changes, in every spelling of the path: it stays the same version."""
    fs = disks.fs()
    fs.pipe_file(f"{top}/x", b"data")
    before = fs.info(f"{top}/x")
    {**MOVES, **COPIES}[how](fs, f"{top}/x", spelling.format(f"{top}/x"))
    after = disks.fs().info(f"{top}/x")
    assert (after["generation"], after["sha256"]) == (before["generation"], before["sha256"])
    assert disks.fs().cat_file(f"{top}/x") == b"data"


@pytest.mark.parametrize("how", MOVES)
def test_a_file_moves(disks: ConfiguredSet, top: str, how: str) -> None:
    """It is at its target on every replica, and nowhere else."""
    fs = disks.fs()
    fs.pipe_file(f"{top}/x", b"data")
    MOVES[how](fs, f"{top}/x", f"{top}/y")
    assert fs.find(top) == [f"{top}/y"]
    key = f"{top.removeprefix(f'{SET}/')}/y"
    assert all(copies(base) == {key: b"data"} for base in disks.bases.values())


def test_upath_moves(disks: ConfiguredSet, top: str) -> None:
    """With its own spelling of paths."""
    fsspec.get_filesystem_class("fsbackup")  # else universal_pathlib says that it does not know it
    path = UPath(f"fsbackup://{top}/x", **disks.options)
    path.write_bytes(b"data")
    path.rename(path)
    path.rename(f"fsbackup://{top}/y")
    assert contents(disks.fs(), top) == {f"{top}/y": b"data"}


@pytest.mark.parametrize("how", [*MOVES, *COPIES])
def test_an_absent_source(disks: ConfiguredSet, top: str, how: str) -> None:
    """An absent source is an error, also when the target is the same path."""
    for target in (f"{top}/x", f"{top}/y"):
        with pytest.raises(FileNotFoundError):
            {**MOVES, **COPIES}[how](disks.fs(), f"{top}/x", target)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_directory_onto_itself(disks: ConfiguredSet, top: str, spelling: str) -> None:
    fs = disks.fs()
    fs.pipe({f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"})
    fs.mv(f"{top}/d", spelling.format(f"{top}/d"), recursive=True)
    fs.mv(f"{top}/d", top, recursive=True)  # into the directory that it is in
    fs.mv(f"{top}/d/a", f"{top}/d")
    assert contents(disks.fs(), top) == {f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"}


@pytest.mark.parametrize("target", ["d/old", "d/b", "d/b/", "fsbackup://d/old", "d/old/older"])
def test_a_directory_below_itself(disks: ConfiguredSet, top: str, target: str) -> None:
    """It is refused before anything moves."""
    fs = disks.fs()
    fs.pipe({f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"})
    there = f"{top}/{target}" if "://" not in target else target.replace("://", f"://{top}/")
    with pytest.raises(ValueError, match="below itself"):
        fs.mv(f"{top}/d", there, recursive=True)
    assert contents(disks.fs(), top) == {f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"}


def test_directories_move(disks: ConfiguredSet, top: str) -> None:
    """To a new name; into an existing directory; or only their content."""
    fs = disks.fs()
    fs.pipe({f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"})
    fs.makedirs(f"{top}/d/empty")
    fs.mv(f"{top}/d", f"{top}/e", recursive=True)
    assert fs.find(top) == [f"{top}/e/a", f"{top}/e/b/c"]
    assert fs.isdir(f"{top}/e/empty")
    assert not fs.exists(f"{top}/d")
    fs.pipe_file(f"{top}/there/x", b"3")
    fs.mv(f"{top}/e", f"{top}/there", recursive=True)
    assert fs.find(top) == [f"{top}/there/e/a", f"{top}/there/e/b/c", f"{top}/there/x"]
    fs.mv(f"{top}/there/e/", f"{top}/there", recursive=True)
    assert contents(fs, top) == {
        f"{top}/there/a": b"1",
        f"{top}/there/b/c": b"2",
        f"{top}/there/x": b"3",
    }


def test_only_what_was_copied_is_removed(disks: ConfiguredSet, top: str) -> None:
    """Files below `maxdepth` stay."""
    fs = disks.fs()
    fs.pipe({f"{top}/d/a": b"1", f"{top}/d/b/c": b"2"})
    fs.mv(f"{top}/d", f"{top}/e", recursive=True, maxdepth=1)
    assert contents(disks.fs(), top) == {f"{top}/e/a": b"1", f"{top}/d/b/c": b"2"}


def test_a_star_is_a_letter(disks: ConfiguredSet, top: str) -> None:
    fs = disks.fs()
    fs.pipe({f"{top}/a*": b"1", f"{top}/ab": b"2"})
    fs.mv(f"{top}/a*", f"{top}/moved")
    assert contents(disks.fs(), top) == {f"{top}/moved": b"1", f"{top}/ab": b"2"}


def test_directories_need_recursive(disks: ConfiguredSet, top: str) -> None:
    """Without `recursive` a directory stays, and a whole set always does."""
    fs = disks.fs()
    fs.pipe_file(f"{top}/d/a", b"1")
    with pytest.raises(IsADirectoryError):
        fs.mv(f"{top}/d", f"{top}/e")
    with pytest.raises(PermissionError):
        fs.mv(SET, f"{top}/e", recursive=True)
    assert disks.fs().find(top) == [f"{top}/d/a"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_files_that_replace_each_other(disks: ConfiguredSet, top: str, order: tuple[int, int]) -> None:
    """Two files that swap paths, or get one path: one of them would be lost."""
    fs = disks.fs()
    fs.pipe({f"{top}/a/x": b"1", f"{top}/b/x": b"2"})
    both = [f"{top}/a/x", f"{top}/b/x"]
    with pytest.raises(ValueError, match="in its way"):
        fs.mv([both[each] for each in order], [both[each] for each in reversed(order)])
    with pytest.raises(ValueError, match="in its way"):
        fs.mv([both[each] for each in order], f"{top}/c")
    assert contents(disks.fs(), top) == {f"{top}/a/x": b"1", f"{top}/b/x": b"2"}


def test_a_list_moves_into_a_directory(disks: ConfiguredSet, top: str) -> None:
    fs = disks.fs()
    fs.pipe({f"{top}/a/x": b"1", f"{top}/b/y": b"2"})
    fs.mv([f"{top}/a/x", f"{top}/b/y"], f"{top}/c")
    assert contents(disks.fs(), top) == {f"{top}/c/x": b"1", f"{top}/c/y": b"2"}


def test_a_directory_that_cannot_be_listed_stays(buckets: ConfiguredSet, top: str) -> None:
    """While too few replicas answer, its content is unknown."""
    buckets.min_copies = 1
    buckets.fs().pipe({f"{top}/d/a": b"1", f"{top}/d/b": b"2"})
    buckets.proxies["moto0"].add(Refuse())
    with pytest.raises(NoHealthyReplicaError, match="moto0"):
        buckets.fs().mv(f"{top}/d", f"{top}/e", recursive=True)
    buckets.proxies["moto0"].clear()
    assert buckets.fs().find(top) == [f"{top}/d/a", f"{top}/d/b"]


class Deployment:
    """Two sets: `triple` on a disk and two clouds, two copies needed; `wal` on the clouds only, one needed.

    Parameters
    ----------
    tmp
        Where the configuration and the disk are.
    clouds
        The two clouds as `triple` knows them, by name.
    wal
        The same as `wal` knows them.
    """

    def __init__(self, tmp: Path, clouds: dict[str, Any], wal: dict[str, Any]) -> None:
        self.base = tmp / "local"
        self.config = tmp / "fsbackup.yaml"
        backends = {"local": {"type": "local", "path": str(self.base)}, **clouds, **wal}
        sets = {
            "triple": {"backends": ["local", *clouds], "min_copies": 2},
            "wal": {"backends": list(wal), "min_copies": 1},
        }
        self.config.write_text(yaml.safe_dump({"version": 1, "backends": backends, "replication": sets}))

    def fs(self) -> FsbackupFileSystem:
        """Return a new filesystem with empty caches."""
        return FsbackupFileSystem(config=self.config, skip_instance_cache=True)

    def holders(self, key: str) -> list[str]:
        """Return the backends of `triple` that hold a proven copy."""
        storage = ReplicatedStorage.from_config(self.config, "triple", errors="raise")
        try:
            found = storage.stat(key)
        except FileNotFoundError:
            return []
        return [name for name, replica in found.replicas.items() if replica.state == "present"]


def on_disks(tmp: Path, clouds: Path, wal: Path | None) -> Deployment:
    """Return a deployment whose clouds are directories; `wal` is the path to them by which that set knows them."""
    known = {name: {"type": "local", "path": str(clouds / name)} for name in ("r2", "b2")}
    others = {f"wal-{name}": {"type": "local", "path": f"{wal}/{name}"} for name in known}
    return Deployment(tmp, known, others if wal else known)


@pytest.fixture(params=["same names", "other names", "buckets"])
def two_sets(request: pytest.FixtureRequest, tmp_path: Path) -> Deployment:
    """Return a deployment whose sets share two places, under the same names or under others."""
    if request.param != "buckets":
        return on_disks(tmp_path, tmp_path, tmp_path / "." if request.param == "other names" else None)
    server: S3Endpoint = request.getfixturevalue("moto")
    top = secrets.token_hex(4)
    clouds = {name: {**server.backend, "prefix": f"{top}/{name}"} for name in ("r2", "b2")}
    url = f"{server.endpoint_url}/"
    return Deployment(
        tmp_path, clouds, {f"wal-{name}": {**each, "endpoint_url": url} for name, each in clouds.items()}
    )


def test_into_a_set_that_shares_backends(two_sets: Deployment) -> None:
    """The replica on the backend that the target does not have is deleted; the others are the target's."""
    fs = two_sets.fs()
    fs.pipe_file("triple/t/k", b"data")
    fs.mv("triple/t/k", "wal/t/k")
    assert two_sets.fs().cat_file("wal/t/k") == b"data"
    assert two_sets.holders("t/k") == ["r2", "b2"]
    fs.mv("wal/t/k", "triple/t/k")
    assert two_sets.fs().cat_file("triple/t/k") == b"data"
    assert two_sets.holders("t/k") == ["local", "r2", "b2"]


def test_directories_between_such_sets(two_sets: Deployment) -> None:
    fs = two_sets.fs()
    fs.pipe({"triple/d/a": b"1", "triple/d/b/c": b"2"})
    with pytest.raises(ValueError, match="below itself"):
        fs.mv("triple/d", "wal/d/old", recursive=True)
    fs.mv("triple/d/", "wal/d", recursive=True)
    assert contents(two_sets.fs(), "wal/d") == {"wal/d/a": b"1", "wal/d/b/c": b"2"}
    assert two_sets.holders("d/a") == two_sets.holders("d/b/c") == ["r2", "b2"]
    fs.mv("wal/d/", "triple/d/", recursive=True)
    assert two_sets.holders("d/a") == two_sets.holders("d/b/c") == ["local", "r2", "b2"]


def test_to_another_name_between_such_sets(two_sets: Deployment) -> None:
    """Under another key no replica is shared."""
    fs = two_sets.fs()
    fs.pipe_file("triple/t/k", b"data")
    fs.mv("triple/t/k", "wal/t/other")
    assert two_sets.holders("t/k") == []
    assert two_sets.holders("t/other") == ["r2", "b2"]
    assert two_sets.fs().cat_file("wal/t/other") == b"data"


def test_one_place_under_two_addresses(tmp_path: Path) -> None:
    """With a symbolic link two addresses are one place: the copy is then the newest version, and stays."""
    (tmp_path / "link").symlink_to(tmp_path)
    sets = on_disks(tmp_path, tmp_path, tmp_path / "link")
    fs = sets.fs()
    fs.pipe_file("triple/t/k", b"data")
    with pytest.raises(ConflictError, match="newer version"):
        fs.mv("triple/t/k", "wal/t/k")
    assert sets.holders("t/k") == ["r2", "b2"]
    assert (sets.base / "t/k").read_bytes() == b"data"
    assert sets.fs().cat_file("wal/t/k") == b"data"
