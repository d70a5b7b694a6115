"""Appending: the object is read and replaced whole, where the set allows it, and only if it is still the same."""

from __future__ import annotations

import gzip
import io
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fsbackup import ReplicatedStorage
from fsbackup.backends import LocalStorage
from fsbackup.config import InvalidConfigError, parse_config
from fsbackup.errors import ConfigError, ConflictError, IntegrityError, NoHealthyReplicaError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.filesystem.append import MAX_SIZE
from tests.filesystem.configured_set import ROOT, ConfiguredSet, make_configured_set
from tests.replication.rig import MIB, content
from tests.servers.bucket import read_bytes
from tests.servers.faults import Hold, Refuse
from tests.servers.s3 import StrictEndpoint


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/log.csv"


@pytest.fixture
def fs(disks: ConfiguredSet) -> FsbackupFileSystem:
    disks.append = True
    return disks.fs()


@pytest.fixture
def three(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ConfiguredSet]:
    """Return a set that allows it, of two directories and a service; two copies suffice."""
    tmp = tmp_path_factory.mktemp("site")
    with make_configured_set("local+local+s3", tmp, request.getfixturevalue) as made:
        made.min_copies, made.append = 2, True
        made.fs().pipe_file(f"{ROOT}/first", b"1")
        yield made


@pytest.fixture
def clouds(
    tmp_path: Path, request: pytest.FixtureRequest, strict_r2: StrictEndpoint, strict_b2: StrictEndpoint
) -> Iterator[ConfiguredSet]:
    """Return a set of two buckets that allows it, of servers with the rules of R2 and of B2."""
    for each in (strict_r2, strict_b2):
        each.control.reset()
        each.control.configure(write_interval=0, unavailable_every=0)
    with make_configured_set("r2+b2", tmp_path, request.getfixturevalue) as made:
        made.append = True
        for name, kind in zip(made.backends, ("r2", "b2"), strict=True):
            made.backends[name]["type"] = kind
        del made.backends["strict_r20"]["region"]
        yield made


def append(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "ab") as file:
        file.write(data)


def test_append(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    """It creates, adds, and counts positions from the beginning; a longer one comes in pieces."""
    append(fs, path, b"1")
    with fs.open(path, "ab") as file:
        assert file.tell() == 1
        file.write(b"2")
        assert file.tell() == 2
        file.write(b"3")
    with fs.open(path, "a") as text:
        text.write("4")
    assert fs.cat_file(path) == b"1234"
    data = content(20 * MIB)
    append(fs, path, data)
    assert disks.fs().cat_file(path) == b"1234" + data
    info = disks.storage().stat(path.partition("/")[2])
    assert {each.state for each in info.replicas.values()} == {"present"}


def test_nothing_added_is_no_new_version(fs: FsbackupFileSystem, path: str) -> None:
    with fs.open(path, "ab"):
        pass
    assert fs.cat_file(path) == b""
    append(fs, path, b"1")
    before = fs.info(path)
    with fs.open(path, "ab"):
        pass
    fs.invalidate_cache()
    assert fs.info(path) == before


def test_consumers(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    """pandas, and gzip, whose files may follow one another."""
    for row in range(3):
        frame = pd.DataFrame({"n": [row]})
        frame.to_csv(f"fsbackup://{path}", mode="a", header=not row, index=False, storage_options=disks.options)
        with fs.open(f"{path}.gz", "ab", compression="gzip") as file:
            file.write(b"%d" % row)
    assert list(pd.read_csv(f"fsbackup://{path}", storage_options=disks.options)["n"]) == [0, 1, 2]
    assert gzip.decompress(fs.cat_file(f"{path}.gz")) == b"012"


def test_it_must_be_allowed(disks: ConfiguredSet, path: str) -> None:
    fs = disks.fs()
    fs.pipe_file(path, b"old")
    with pytest.raises(io.UnsupportedOperation, match="set `append: true` on the replication set 'pair'"):
        fs.open(path, "ab")
    assert fs.cat_file(path) == b"old"


def test_only_where_one_of_two_writers_is_refused(disks: ConfiguredSet) -> None:
    """With a minority of copies both could be told that theirs is stored."""
    disks.append, disks.min_copies = True, 1
    disks.write()
    with pytest.raises(InvalidConfigError, match=r"replication.pair.append: needs min_copies 2, more than half"):
        parse_config(disks.config.read_text())
    backends = [LocalStorage(base, name=name) for name, base in disks.bases.items()]
    with pytest.raises(ConfigError, match="append needs min_copies 2"):
        ReplicatedStorage(backends, min_copies=1, append=True)


def test_an_exception_appends_nothing(fs: FsbackupFileSystem, path: str) -> None:
    append(fs, path, b"old")
    with pytest.raises(KeyError):
        _append_and_fail(fs, path)
    assert fs.cat_file(path) == b"old"


def _append_and_fail(fs: FsbackupFileSystem, path: str) -> None:
    with fs.open(path, "ab") as file:
        file.write(content(6 * MIB))
        raise KeyError


def test_too_large(fs: FsbackupFileSystem, path: str) -> None:
    """Found out before it is read, or as soon as it becomes so."""
    append(fs, path, b"old")
    with pytest.raises(io.UnsupportedOperation, match="up to 64 MiB"):
        append(fs, path, bytes(MAX_SIZE - 2))
    assert fs.cat_file(path) == b"old"
    fs.pipe_file(path, bytes(MAX_SIZE + 1))
    with pytest.raises(io.UnsupportedOperation, match="write a new object"):
        fs.open(path, "ab")


@pytest.mark.parametrize("between", ["replaced", "removed", "appended"])
def test_a_writer_in_between(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str, between: str) -> None:
    """What it stored stays, and who appends is told."""
    append(fs, path, b"old")
    file = fs.open(path, "ab")
    file.write(b"mine")
    other = disks.fs()
    if between == "removed":
        other.rm_file(path)
    elif between == "replaced":
        other.pipe_file(path, b"new")
    else:
        append(other, path, b"theirs")
    with pytest.raises(ConflictError, match=r"append .*log.csv'.*open it again, and append again"):
        file.close()
    expected = {"removed": None, "replaced": b"new", "appended": b"oldtheirs"}[between]
    assert (fs.cat_file(path) if fs.exists(path) else None) == expected


def test_a_delete_during_the_upload(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    """It came after the look at all replicas, and before they were locked: what is gone does not come back."""
    append(fs, path, b"old")
    file = fs.open(path, "ab")
    for _ in range(6):
        file.write(bytes(4 * MIB))  # more than fits into the pipe: the upload has looked, and reads
    disks.fs().rm_file(path)
    with pytest.raises(ConflictError):
        file.close()
    assert not fs.exists(path)


def test_a_writer_in_between_of_a_new_object(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    file = fs.open(path, "ab")
    file.write(b"mine")
    disks.fs().pipe_file(path, b"theirs")
    with pytest.raises(ConflictError):
        file.close()
    assert fs.cat_file(path) == b"theirs"


def elsewhere(clouds: ConfiguredSet, *servers: StrictEndpoint) -> FsbackupFileSystem:
    """Return the same set without the proxies, which shares no lock with that one, as on another machine."""
    clouds.write()
    config = yaml.safe_load(clouds.config.read_text())
    for name, server in zip(clouds.backends, servers, strict=True):
        config["backends"][name].update(endpoint_url=server.endpoint_url, ca_bundle=str(server.ca_bundle))
    return FsbackupFileSystem(config=config)


def test_a_writer_just_before_the_commit(
    clouds: ConfiguredSet, path: str, strict_r2: StrictEndpoint, strict_b2: StrictEndpoint
) -> None:
    """It stores after all looks: R2 refuses the write, and what B2 took is taken back, by its version."""
    append(clouds.fs(), path, b"old")
    held = [proxy.add(Hold(), on="put_object") for proxy in clouds.proxies.values()]
    slow, fast = clouds.fs(), elsewhere(clouds, strict_r2, strict_b2)

    def append_slowly() -> None:
        with pytest.raises(ConflictError, match=r"\(strict_r20, strict_b21\); nothing is appended"):
            append(slow, path, b"slow")

    with ThreadPoolExecutor(1) as pool:
        slowly = pool.submit(append_slowly)
        try:
            for each in held:
                each.wait_reached()
            append(fast, path, b"fast")
        finally:
            for each in held:
                each.release()
        slowly.result()
    assert clouds.fs().cat_file(path) == b"oldfast"
    for name, proxy in clouds.proxies.items():
        assert read_bytes(proxy.endpoint, clouds.data(name, path.partition("/")[2])) == b"oldfast"


def test_many_at_once(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    """Everyone who was not told of a conflict finds what he added, once."""
    append(fs, path, b"")
    others = [disks.fs() for _ in range(24)]

    def add(number: int) -> bool:
        try:
            append(others[number], path, b"<%d>" % number)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        stored = [number for number, ok in enumerate(pool.map(add, range(24))) if ok]
    found = fs.cat_file(path).decode()
    assert [found.count(f"<{number}>") for number in stored] == [1] * len(stored)
    assert max(found.count(f"<{number}>") for number in range(24)) == 1


def test_one_away(three: ConfiguredSet, path: str) -> None:
    """Two of three prove what is the newest, and take the new one; one of them alone does not."""
    append(three.fs(), path, b"1")
    three.proxies["moto2"].add(Refuse())
    append(three.fs(), path, b"2")
    three.proxies["moto2"].clear()
    append(three.fs(), path, b"3")
    assert three.fs().cat_file(path) == b"123"
    three.proxies["moto2"].add(Refuse())
    three.bases["local0"].rename(three.bases["local0"].with_name("gone"))
    with pytest.raises(NoHealthyReplicaError, match=r"append .*too few"):
        three.fs().open(path, "ab")
    three.bases["local0"].with_name("gone").rename(three.bases["local0"])


def test_what_nothing_proves(disks: ConfiguredSet, fs: FsbackupFileSystem, path: str) -> None:
    """An object of another program is not taken for ours."""
    fs.pipe_file(f"{path}.other", b"1")
    for base in disks.bases.values():
        (base / path.partition("/")[2]).write_bytes(b"plain")
    with pytest.raises(IntegrityError, match=r"has no manifest.*repair --adopt"):
        fs.open(path, "ab")
