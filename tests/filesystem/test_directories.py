"""Directories are listed as one level: what lies deeper is looked at only where the replicas differ."""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path

import pytest

from fsbackup import LocalStorage, ReplicatedStorage, StaleReadWarning
from fsbackup.backends import SingleBackend
from fsbackup.engine.replicas import Unproven
from fsbackup.errors import NoHealthyReplicaError, TooFewCopiesError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.keys import manifest_name
from fsbackup.stores.s3.providers import R2
from tests.filesystem.configured_set import ROOT, ConfiguredSet
from tests.integration.s3_helpers import connect
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import fault_proxy

PAGE = 5


@pytest.fixture
def folder() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}"


def test_it_costs_one_request(moto: S3Endpoint) -> None:
    """Whatever lies below, where the service is known to list what there is; and two names tell a directory."""
    with fault_proxy(moto) as proxy:
        store = connect(proxy.endpoint, profile=R2, page_size=PAGE, prefix=secrets.token_hex(4))
        fs = ReplicatedStorage([SingleBackend(store)], name="one").fs
        fs.pipe({f"one/d/{sub}/{number:02}": b"1" for sub in ("a", "b c", "b") for number in range(PAGE + 1)})
        fs.pipe({f"one/d/{name}": b"22" for name in ("a.csv", "é")})
        for path, expected in (
            ("one", ["one/d"]),
            ("one/d", ["one/d/a", "one/d/a.csv", "one/d/b", "one/d/b c", "one/d/é"]),
        ):
            proxy.forget()
            assert fs.ls(path, detail=False) == expected
            assert proxy.count("list") == 1
        assert [each["size"] for each in fs.ls("one/d")] == [0, 2, 0, 0, 2]
        assert len(fs.ls("one/d/b")) == PAGE + 1
        proxy.forget()
        assert fs.isdir("one/d/b")
        assert not fs.isdir("one/d/bc")
        assert proxy.count("list") == 2


def test_what_only_one_replica_has(disks: ConfiguredSet, folder: str) -> None:
    """It is there, in whatever depth, and also where the first replica that is asked has nothing of it."""
    fs = disks.fs()
    fs.pipe({f"{folder}/{name}": b"1" for name in ("all/x", "some/deep/x", "some/y")})
    key = folder.partition("/")[2]
    for name in (f"{key}/some/deep/x", f"{key}/some/y"):
        for path in (name, manifest_name(name)):
            (disks.bases["local0"] / path).unlink()
    fs = disks.fs()
    assert fs.ls(folder, detail=False) == [f"{folder}/all", f"{folder}/some"]
    assert fs.ls(f"{folder}/some", detail=False) == [f"{folder}/some/deep", f"{folder}/some/y"]
    assert fs.isdir(f"{folder}/some/deep")


def test_what_was_deleted_elsewhere(disks: ConfiguredSet, folder: str) -> None:
    """A replica that missed the delete shows neither the object nor its directory."""
    fs = disks.fs()
    fs.pipe({f"{folder}/{name}": b"1" for name in ("gone/x", "kept/x", "kept/y")})
    disks.bases["local1"].rename(away := disks.bases["local1"].with_name("away"))
    for name in ("gone/x", "kept/x"):
        with pytest.raises(TooFewCopiesError):
            disks.fs().rm_file(f"{folder}/{name}")
    away.rename(disks.bases["local1"])
    fs = disks.fs()
    assert fs.ls(folder, detail=False) == [f"{folder}/kept"]
    assert fs.ls(f"{folder}/kept", detail=False) == [f"{folder}/kept/y"]
    assert not fs.isdir(f"{folder}/gone")
    assert fs.isdir(f"{folder}/kept")


def test_names_that_are_too_long_for_a_disk(disks: ConfiguredSet, folder: str) -> None:
    """The listing has only a part of them and a hash; a record below has the whole."""
    fs, long = disks.fs(), "n" * 300
    fs.pipe({f"{folder}/{name}": b"1" for name in (f"{long}/x", f"sub/{long}/{long}/y")})
    for path in (f"{folder}/{long}", f"{folder}/sub/{long}", f"{folder}/sub/{long}/{long}"):
        assert path in fs.ls(path.rpartition("/")[0], detail=False)
        assert fs.isdir(path)
    assert fs.find(folder) == [f"{folder}/{long}/x", f"{folder}/sub/{long}/{long}/y"]


def test_what_may_not_be_all_is_said(tmp_path: Path) -> None:
    """One disk of three cannot know what the others have confirmed: a warning, or an error where that is set."""

    def filesystem(unproven: Unproven) -> FsbackupFileSystem:
        disks = [LocalStorage(tmp_path / name, name=name) for name in "abc"]
        fs = ReplicatedStorage(disks, name="s", min_copies=2, unproven=unproven).fs
        assert isinstance(fs, FsbackupFileSystem)
        return fs

    filesystem("warn").pipe_file("s/d/x", b"1")
    for name in "bc":
        (tmp_path / name).rename(tmp_path / f"{name}-away")
        (tmp_path / name).write_bytes(b"no directory")
    for look in (FsbackupFileSystem.ls, FsbackupFileSystem.find, FsbackupFileSystem.du):
        with pytest.warns(StaleReadWarning, match="^d: objects may be missing from what is listed, .*: b: .*c: "):
            assert getattr(filesystem("warn"), look.__name__)("s/d")
        with pytest.raises(NoHealthyReplicaError, match=f"^{look.__name__} 's/d': objects may be missing"):
            getattr(filesystem("raise"), look.__name__)("s/d")
    (tmp_path / "b").unlink()
    (tmp_path / "b-away").rename(tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert filesystem("warn").ls("s/d", detail=False) == ["s/d/x"]
