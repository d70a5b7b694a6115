"""Which configuration a filesystem has: what it says now, given as a file, as values, or as an open set."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import yaml

from fsbackup import LocalStorage, ReplicatedStorage, load_config
from fsbackup.errors import ConfigError
from fsbackup.filesystem import FsbackupFileSystem

#: A secret in each configuration below that has one.
SECRET = "Zx81kLmNpQ7rStUvW3yA"


def disk(path: Path | str) -> dict[str, Any]:
    """Return a configuration of one set, ``one``, of one directory."""
    return {
        "version": 1,
        "backends": {"disk": {"type": "local", "path": str(path)}},
        "replication": {"one": {"backends": ["disk"]}},
    }


def bucket(secret: str) -> dict[str, Any]:
    """Return a configuration of one set of one bucket, which nobody asks for anything."""
    settings = {"type": "s3", "bucket": "backups", "endpoint_url": "http://127.0.0.1:9", "access_key_id": "${ID}"}
    return {
        "version": 1,
        "backends": {"s3": {**settings, "secret_access_key": secret}},
        "replication": {"one": {"backends": ["s3"]}},
    }


def write(file: Path, config: dict[str, Any]) -> Path:
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config))
    return file


def filesystem(**options: Any) -> FsbackupFileSystem:
    found = fsspec.filesystem("fsbackup", **options)
    assert isinstance(found, FsbackupFileSystem)
    return found


@pytest.fixture(autouse=True)
def _no_configuration_but_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FSBACKUP_CONFIG", raising=False)


def test_an_edited_file_is_another_configuration(tmp_path: Path) -> None:
    """Whoever asks for the filesystem gets what the file says now; who has it keeps it until `reload`."""
    file = write(tmp_path / "c.yaml", disk(tmp_path / "a"))
    old = filesystem(config=file)
    assert filesystem(config=file) is old
    old.pipe_file("one/x", b"a")
    write(file, disk(tmp_path / "b"))
    new = filesystem(config=file)
    assert filesystem(config=file) is new
    assert new != old
    assert not new.exists("one/x")
    pd.DataFrame({"n": [1]}).to_csv("fsbackup://one/n.csv", storage_options={"config": str(file)})
    assert (tmp_path / "b/n.csv").exists()
    assert old.cat_file("one/x") == b"a"
    old.reload()
    assert not old.exists("one/x")
    assert old.exists("one/n.csv")
    assert old == new
    # What was put back is read again, and not what was kept under its old fingerprint.
    write(file, disk(tmp_path / "a"))
    assert filesystem(config=file).cat_file("one/x") == b"a"


def test_open_files_go_on_with_what_they_had(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", disk(tmp_path / "a"))
    fs = filesystem(config=file)
    fs.pipe_file("one/x", b"old")
    with fs.open("one/x") as reading, fs.open("one/y", "wb") as writing:
        write(file, disk(tmp_path / "b"))
        fs.reload()
        assert not fs.exists("one/x")
        assert reading.read() == b"old"
        writing.write(b"1")
    assert (tmp_path / "a/y").read_bytes() == b"1"
    assert not fs.exists("one/y")


def test_the_current_directory_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path, both decide which file is meant, each time."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "fsbackup.yaml", disk(name))
        monkeypatch.chdir(tmp_path / name)
        filesystem().pipe_file("one/x", name.encode())
    monkeypatch.setenv("FSBACKUP_CONFIG", "../here/fsbackup.yaml")
    fs = filesystem()
    assert fs.cat_file("one/x") == b"here"
    assert fs.storage_options == {"config": str(tmp_path / "here/fsbackup.yaml")}
    monkeypatch.setenv("FSBACKUP_CONFIG", str(tmp_path / "there/fsbackup.yaml"))
    assert pd.read_csv("fsbackup://one/x").columns == ["there"]
    monkeypatch.delenv("FSBACKUP_CONFIG")
    monkeypatch.chdir(tmp_path / "here")
    assert filesystem() is fs


def test_a_variable_and_a_secret_in_a_file_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was put right is used; variables that the file does not have change nothing."""
    config = bucket("")
    del config["backends"]["s3"]["secret_access_key"]
    config["backends"]["s3"]["secret_access_key_file"] = "secret"
    file = write(tmp_path / "c.yaml", config)
    found = []
    for name, secret in (("one", "wrong"), ("two", "wrong"), ("two", SECRET)):
        monkeypatch.setenv("ID", name)
        (tmp_path / "secret").write_text(secret)
        found.append(filesystem(config=file))
        monkeypatch.setenv("UNRELATED", name + secret)
        assert filesystem(config=file) is found[-1]
    assert len(set(map(id, found))) == 3
    settings = found[-1].sets._source.config.backends["s3"]  # type: ignore[union-attr]
    assert settings.secret_access_key.get_secret_value() == SECRET  # type: ignore[union-attr]
    for fs in found:
        assert SECRET not in f"{fs._fs_token_} {fs._fs_token} {fs!r} {fs.sets.option!r} {pickle.dumps(fs)!r}"


def test_the_identity_belongs_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that names the key for encrypted objects is looked at each time."""
    fs = filesystem(config=disk(tmp_path))
    monkeypatch.setenv("FSBACKUP_AGE_IDENTITY", str(tmp_path / "key"))
    assert filesystem(config=disk(tmp_path)) is not fs


def test_a_mistake_that_was_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for who still has the filesystem of the wrong one."""
    file = write(tmp_path / "c.yaml", disk("${PLACE}"))
    fs = filesystem(config=file)
    with pytest.raises(ConfigError, match="PLACE, which is not set"):
        fs.ls("one")
    monkeypatch.setenv("PLACE", str(tmp_path))
    assert fs.ls("one", detail=False) == ["one/c.yaml"]


def test_values_as_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping is read as a file with it would be; equal ones have one filesystem, here and elsewhere."""
    monkeypatch.setenv("PLACE", "place")
    values: dict[str, Any] = disk("${PLACE}")
    values["backends"]["other"] = {"type": "local", "path": Path("relative")}
    values["replication"]["one"]["backends"] = ("disk", "other")
    fs = filesystem(config=values)
    assert filesystem(config=json.loads(json.dumps(values, default=str))) is fs
    fs.pipe_file("one/x", b"1")
    assert (tmp_path / "place/x").exists()
    sent = pickle.dumps(fs)
    monkeypatch.chdir("/")
    monkeypatch.setenv("PLACE", str(tmp_path / "place"))
    there = subprocess.run(
        [sys.executable, "-c", "import pickle, sys; print(pickle.load(sys.stdin.buffer).cat_file('one/x'))"],
        input=sent, capture_output=True, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == b"b'1'"
    assert fsspec.AbstractFileSystem.from_json(fs.to_json()).cat_file("one/x") == b"1"
    assert (tmp_path / "relative/x").exists()
    with pytest.raises(ConfigError, match=r"replication.one.backends\[0\]: must be the name of a backend"):
        filesystem(config={**values, "backends": {}}).ls("one")


@pytest.mark.parametrize("secret", [SECRET, f"${{S:-{SECRET}}}", f"${{S}}{SECRET}"])
def test_values_with_a_secret_stay_here(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They work, and are refused where they would leave the process."""
    monkeypatch.setenv("ID", "id")
    monkeypatch.setenv("S", "")
    fs = filesystem(config=bucket(secret))
    assert filesystem(**fs.storage_options) is fs
    assert filesystem(config=bucket(secret.replace("Z", "Y"))) is not fs
    assert SECRET not in f"{fs._fs_token_} {fs.storage_options} {fs!r}"
    for send in (pickle.dumps, FsbackupFileSystem.to_json):
        with pytest.raises(ConfigError, match=r"backends.s3.secret_access_key - give the path .*\$\{NAME\}"):
            send(fs)
    monkeypatch.setenv("S", SECRET)
    fs = filesystem(config=bucket("${S}"))
    assert SECRET.encode() not in pickle.dumps(fs)
    assert SECRET not in fs.to_json()


def test_a_misplaced_secret_in_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ID", "id")
    monkeypatch.setenv("S", SECRET)
    values = bucket("${S}")
    values["backends"]["s3"]["endpoint_url"] = f"http://127.0.0.1:9/{SECRET}"
    with pytest.raises(ConfigError, match=r"backends.s3.endpoint_url"):
        pickle.dumps(filesystem(config=values))


def test_a_loaded_configuration(tmp_path: Path) -> None:
    """Equal ones have one filesystem. It has its secrets resolved, so that it is not pickled."""
    file = write(tmp_path / "c.yaml", disk(tmp_path / "a"))
    fs = filesystem(config=load_config(file))
    assert filesystem(config=load_config(file)) is fs
    fs.pipe_file("one/x", b"1")
    assert filesystem(config=file).cat_file("one/x") == b"1"
    with pytest.raises(ConfigError, match="give the path of a configuration file"):
        pickle.dumps(fs)


def test_options_for_another_protocol(tmp_path: Path) -> None:
    """Hugging Face's `datasets` hands its own to every filesystem; what is not known is an error all the same."""
    fs = filesystem(config=disk(tmp_path))
    assert filesystem(config=disk(tmp_path), hf={"token": SECRET}, s3={"anon": True}) is fs
    with pytest.raises(TypeError, match="has no option 'huggingface'; it takes config, cache_size"):
        filesystem(config=disk(tmp_path), huggingface={})
    with pytest.raises(TypeError, match="has no option 's3'"):
        filesystem(config=disk(tmp_path), s3=True)


def test_old_filesystems_are_not_kept(tmp_path: Path) -> None:
    """A process that lives long and sees many configurations has the last of each file."""
    file = tmp_path / "c.yaml"
    before = len(FsbackupFileSystem._cache)
    for number in range(5):
        filesystem(config=write(file, disk(tmp_path / str(number))))
    assert len(FsbackupFileSystem._cache) == before + 1
    os.unlink(file)
    with pytest.raises(ConfigError, match="there is no configuration file"):
        filesystem(config=file)


def test_the_filesystem_of_a_set(tmp_path: Path) -> None:
    """It is that set and no other, also one that no configuration has; files are opened by their keys."""
    store = ReplicatedStorage([LocalStorage(tmp_path / "a"), LocalStorage(tmp_path / "b", name="b")], name="mine")
    with store.open("x.txt", "w") as file:
        file.write("1")
    assert (tmp_path / "a/x.txt").read_bytes() == (tmp_path / "b/x.txt").read_bytes() == b"1"
    assert store.fs is store.fs
    assert store.fs.ls("") == [{"name": "mine", "size": 0, "type": "directory"}]
    assert pd.read_csv(store.open("x.txt")).columns == ["1"]
    store.fs.mkdir("mine/empty")
    other = ReplicatedStorage([LocalStorage(tmp_path / "c")], name="mine")
    assert not other.fs.exists("mine/x.txt")
    assert not other.fs.exists("mine/empty")
    assert other.fs != store.fs
    with pytest.raises(ConfigError, match="no replication set 'one' in the set 'mine'"):
        store.fs.ls("one")
    with pytest.raises(FileNotFoundError):
        store.open("none")
    with pytest.raises(ValueError, match="cannot be used"):
        store.open("../x")
    for send in (pickle.dumps, FsbackupFileSystem.to_json):
        with pytest.raises(TypeError, match="cannot be pickled"):
            send(store.fs)


def test_the_filesystem_of_a_configured_set(tmp_path: Path) -> None:
    """It is pickled with the path of the configuration."""
    store = ReplicatedStorage.from_config(write(tmp_path / "c.yaml", disk(tmp_path / "a")), "one")
    with store.open("x", "wb") as file:
        file.write(b"1")
    assert store.fs.storage_options == {"config": str(tmp_path / "c.yaml")}
    assert pickle.loads(pickle.dumps(store.fs)).cat_file("one/x") == store.read("x") == b"1"
    assert pickle.loads(pickle.dumps(store.open("x"))).read() == b"1"
