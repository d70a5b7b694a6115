"""Encrypted objects through `fsbackup://`: read as what they were where an identity is given, else said why."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import pickle
import random
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import fsspec
import pandas as pd
import pyrage
import pytest
from fsspec import AbstractFileSystem

from fsbackup import Stages
from fsbackup.errors import ConfigError, IntegrityError, OutOfSpaceError
from fsbackup.filesystem import undone
from tests.filesystem.configured_set import ROOT, ConfiguredSet, overwrite
from tests.servers.faults import Hold

TABLE = pd.DataFrame({"n": range(20_000), "text": ["always the same"] * 20_000})


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    """Return stages whose identity is in ``id``."""
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "id").write_text(str(identity))
    recipients = {"age": [str(identity.to_public())]}
    return Stages(compress="zstd", encrypt=recipients, identity_key_file=tmp_path / "key")


def store(disks: ConfiguredSet, tmp_path: Path, data: bytes, key: str, stages: Stages) -> str:
    """Store `data`, and return its URL."""
    disks.write()
    (tmp_path / "plain").write_bytes(data)
    report = disks.storage().replicate(tmp_path / "plain", f"t/{key}", stages=stages)
    assert report.status == "complete"
    return f"fsbackup://{ROOT}/{key}{stages.suffix}"


def at(disks: ConfiguredSet, tmp_path: Path) -> dict[str, Any]:
    return {**disks.options, "identity": str(tmp_path / "id")}


def test_a_table_is_read_by_pandas_and_dask(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """The size that dask cuts into blocks is that of what is read: nothing is missing at the end."""
    options = at(disks, tmp_path)
    csv = store(disks, tmp_path, TABLE.to_csv(index=False).encode(), "table.csv", stages)
    pd.testing.assert_frame_equal(pd.read_csv(csv, storage_options=options), TABLE)
    lazy = dd.read_csv(csv, storage_options=options, blocksize=100_000)
    assert lazy.npartitions > 3
    assert (lazy.n.sum().compute(scheduler="sync"), len(lazy)) == (TABLE.n.sum(), len(TABLE))
    TABLE.to_parquet(tmp_path / "table.parquet")
    parquet = store(disks, tmp_path, (tmp_path / "table.parquet").read_bytes(), "table.parquet", stages)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet, storage_options=options), TABLE)


def test_files_and_ranges(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """As of any other file; with `raw` it is what is stored."""
    data = random.Random(1).randbytes(3_000_000)
    url = store(disks, tmp_path, data, "x", stages)
    fs, path = fsspec.core.url_to_fs(url, **at(disks, tmp_path))
    assert fs.info(path)["size"] == len(data)
    assert fs.cat(path) == data
    assert fs.cat_ranges([path, path], [5, -7], [10, None]) == [data[5:10], data[-7:]]
    with fs.open(path) as file:
        assert (file.seek(-10, 2), file.read(), file.tell()) == (len(data) - 10, data[-10:], len(data))
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.read() == data
    with fs.open(path, raw=True) as file:
        stored = file.read()
    assert stored.startswith(b"age-encryption.org/v1")
    fs.get(path, str(tmp_path / "raw"), raw=True)
    assert (tmp_path / "raw").read_bytes() == fs.cat(path, raw=True) == stored
    assert fs.cat_ranges([path], [3], [9], raw=True) == [stored[3:9]]


def test_a_download_is_what_is_read(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """To a file, in a directory, to a stream; what is only compressed stays so, as `open` reads it."""
    url = store(disks, tmp_path, b"secret" * 1000, "d/x", stages)
    packed = store(disks, tmp_path, b"public" * 1000, "d/y", Stages(compress="zstd"))
    fs, path = fsspec.core.url_to_fs(url, **at(disks, tmp_path))
    fs.get(path, str(tmp_path / "x"))
    fs.get(f"{ROOT}/d/", str(tmp_path / "all/"), recursive=True)
    stream = io.BytesIO()
    fs.get_file(path, stream)
    assert (tmp_path / "x").read_bytes() == stream.getvalue() == b"secret" * 1000
    assert (tmp_path / "all/x.zst.age").read_bytes() == b"secret" * 1000
    assert (tmp_path / "all/y.zst").read_bytes() == fs.cat(packed)
    with pytest.raises(ConfigError, match=r"no identity is given.*raw=True"):
        disks.fs(identity=[]).get(path, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cache", ["simplecache", "filecache", "blockcache"])
def test_caches_of_fsspec(disks: ConfiguredSet, tmp_path: Path, stages: Stages, cache: str) -> None:
    """They download, or read blocks: the plaintext, the second time from what they have."""
    data = random.Random(1).randbytes(300_000)
    url = f"{cache}::{store(disks, tmp_path, data, 'x', stages)}"
    options = {"fsbackup": at(disks, tmp_path), cache: {"cache_storage": str(tmp_path / "cache")}}
    for _ in range(2):
        with fsspec.open(url, **options) as file:
            assert file.seek(100_000) == 100_000
            assert file.read() == data[100_000:]
        fs, path = fsspec.core.url_to_fs(url, **options)
        assert fs.cat(path) == data
    with pytest.raises(ConfigError, match="no identity is given"):
        fsspec.open(url, fsbackup={**disks.options, "identity": []}).open()
    gc.collect()  # fsspec's blockcache leaves its own file open, and that warning belongs here


def test_an_info_is_of_one_content(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """A size and a hash of different bytes would look like damage to whoever compares them."""
    url = store(disks, tmp_path, b"secret" * 1000, "x", stages)
    stored = disks.fs(identity=[]).info(url)
    fs = disks.fs(identity=tmp_path / "id")
    plain = fs.info(url)
    assert (plain["size"], plain["sha256"]) == (6000, None)
    assert (plain["stored_size"], plain["stored_sha256"]) == (stored["size"], stored["sha256"])
    assert hashlib.sha256(fs.cat(url, raw=True)).hexdigest() == stored["sha256"]
    with fs.open(url) as file:
        assert file.details == plain
    assert fs.ukey(url) != disks.fs(identity=[]).ukey(url)
    assert fs.du(url) == 6000
    assert fs.du(f"{ROOT}/") == fs.ls(f"{ROOT}/")[0]["size"] == stored["size"]


def test_without_an_identity_it_says_why_not(
    disks: ConfiguredSet, tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what to do; neither ciphertext nor half of a file is taken for content."""
    url = store(disks, tmp_path, b"secret" * 1000, "x", stages)
    monkeypatch.delenv("FSBACKUP_AGE_IDENTITY", raising=False)
    fs = disks.fs()
    for read in (fs.open, fs.cat, fs.cat_file):
        with pytest.raises(ConfigError, match="no identity is given") as caught:
            read(url)
        assert "FSBACKUP_AGE_IDENTITY" in str(caught.value)
    (tmp_path / "other").write_text(str(pyrage.x25519.Identity.generate()))
    monkeypatch.setenv("FSBACKUP_AGE_IDENTITY", str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="other recipients"):
        disks.fs().cat(url)
    monkeypatch.setenv("FSBACKUP_AGE_IDENTITY", str(tmp_path / "id"))
    assert disks.fs().cat(url) == b"secret" * 1000


def test_what_is_only_compressed_is_read_by_its_name(disks: ConfiguredSet, tmp_path: Path) -> None:
    """As it is stored: fsspec and pandas decompress what is called .zst."""
    url = store(disks, tmp_path, b"a line\n" * 1000, "x.txt", Stages(compress="zstd"))
    with fsspec.open(url, **disks.options) as file:
        assert file.read(4) == b"\x28\xb5\x2f\xfd"


def test_a_rotten_copy_is_replaced_by_another_one(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """What is decrypted is proven first; when no copy is right, it is an error."""
    data = random.Random(2).randbytes(500_000)
    url = store(disks, tmp_path, data, "x", stages)
    identity = str(tmp_path / "id")
    first, second = (base / "t/x.zst.age" for base in disks.bases.values())
    rot(first)
    assert disks.fs(identity=identity).cat(url) == data
    rot(second)
    with pytest.raises(IntegrityError):
        disks.fs(identity=identity).cat(url)


def rot(copy: Path) -> None:
    with open(copy, "r+b") as file:
        file.seek(1000)
        file.write(b"rotten")


def test_what_is_made_by_stages_is_not_appended_to(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """And no coroutine reads a part of it, as if that were its beginning."""
    disks.append = True
    url = store(disks, tmp_path, b"day", "x", stages)
    fs, path = fsspec.core.url_to_fs(url, **at(disks, tmp_path))
    with pytest.raises(OSError, match="is stored compressed or encrypted: store a new object"):
        fs.open(path, "ab")
    with pytest.raises(NotImplementedError, match="is encrypted, and decrypted as a whole"):
        asyncio.run(fs.open_async(path))
    assert fs.cat(path) == b"day"


@pytest.mark.parametrize("form", [str, str.lower, str.encode, Path, lambda key: ["id", f"# mine\n{key}\n"]])
def test_a_key_itself_is_no_identity(disks: ConfiguredSet, form: Callable[[str], Any]) -> None:
    """It would be in pickles and JSON: it is refused, and not repeated."""
    key = str(pyrage.x25519.Identity.generate())
    for secret in (key, f"-----BEGIN OPENSSH PRIVATE KEY-----\n{key[16:]}\n-----END OPENSSH PRIVATE KEY-----"):
        with pytest.raises(ConfigError, match="must be the path of a file") as caught:
            disks.fs(identity=form(secret))
        assert key[16:].lower() not in str(caught.value).lower()


def test_a_file_may_be_named_like_a_key(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    url = store(disks, tmp_path, b"data", "x", stages)
    path = (tmp_path / "id").rename(tmp_path / "AGE-SECRET-KEY-1 my private key.txt")
    assert disks.fs(identity=path).cat(url) == b"data"


def test_a_relative_identity_is_of_the_directory_where_it_was_given(
    disks: ConfiguredSet, tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `config` is: a process that works elsewhere finds it, too."""
    url = store(disks, tmp_path, b"data", "x", stages)
    monkeypatch.chdir(tmp_path)
    for identity in ("id", Path("id"), ["id"]):
        fs = disks.fs(identity=identity)
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            assert fs.cat(url) == b"data"
            assert pickle.loads(pickle.dumps(fs)).cat(url) == b"data"
            assert AbstractFileSystem.from_json(fs.to_json()).cat(url) == b"data"


def test_the_set_opens_with_an_identity(disks: ConfiguredSet, tmp_path: Path, stages: Stages) -> None:
    """It was ignored, as any other word was."""
    store(disks, tmp_path, b"data", "x", stages)
    storage = disks.storage()
    with storage.open("t/x.zst.age", identity=tmp_path / "id") as file:
        assert file.read() == b"data"
    with storage.open("t/x.zst.age", "r", identity=str(tmp_path / "id"), encoding="ascii") as file:
        assert file.read() == "data"
    with storage.open("t/x.zst.age", raw=True) as file:
        assert file.read(3) == b"age"
    with pytest.raises(TypeError, match=r"no option identiy; it takes .*identity"):
        storage.open("t/x.zst.age", identiy="id")


def test_a_full_directory_for_temp_files_is_named(
    disks: ConfiguredSet, tmp_path: Path, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the object, and what to do; "No space left on device" says neither where nor why."""
    url = store(disks, tmp_path, b"data" * 100_000, "x", stages)
    monkeypatch.setattr(undone, "_IN_MEMORY", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fs = disks.fs(identity=tmp_path / "id")
    assert fs.cat(url) == b"data" * 100_000
    full = lambda **_: open("/dev/full", "w+b", buffering=0)  # noqa: E731, SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for read in (fs.open, fs.cat):
        with pytest.raises(OutOfSpaceError, match=f"t/x.zst.age.* in {tmp_path}, .*No space left.*set TMPDIR"):
            read(url)


def test_opened_after_an_overwrite_it_is_the_new_one(
    disks: ConfiguredSet, tmp_path: Path, stages: Stages, elsewhere: Pool
) -> None:
    """Which another process stored: its plaintext, its size, and what tells it from others."""
    url = store(disks, tmp_path, b"old" * 1000, "x", stages)
    fs, path = fsspec.core.url_to_fs(url, **at(disks, tmp_path))
    assert fs.info(path)["size"] == 3000
    elsewhere.apply(overwrite, (disks.config, f"{ROOT}/x", b"newer" * 1000, stages))
    with fs.open(path) as file:
        assert (file.size, file.read()) == (5000, b"newer" * 1000)
        with fs.open(path, raw=True) as stored:
            sha256 = hashlib.sha256(stored.read()).hexdigest()
        assert file.details["stored_sha256"] == sha256
        assert pickle.loads(pickle.dumps(file)).read() == b"newer" * 1000


def test_replaced_while_it_is_opened_it_says_what_it_is(
    buckets: ConfiguredSet, tmp_path: Path, stages: Stages, elsewhere: Pool
) -> None:
    """The one that was decrypted, not the one that was found before."""
    old, new = random.Random(1).randbytes(600_000), random.Random(2).randbytes(700_000)
    url = store(buckets, tmp_path, old, "x", stages)
    fs, path = fsspec.core.url_to_fs(url, **at(buckets, tmp_path))
    before = fs.info(path)
    holds = [
        proxy.add(Hold(), on="get", key=buckets.data(name, "t/x.zst.age"))
        for name, proxy in buckets.proxies.items()
    ]
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(fs.open, path)
        try:
            holds[0].wait_reached()
            elsewhere.apply(overwrite, (buckets.config, f"{ROOT}/x", new, stages))
        finally:
            for hold in holds:
                hold.release()
        with opened.result() as file:
            assert (file.size, file.details["size"], file.read()) == (700_000, 700_000, new)
            assert file.details["generation"] > before["generation"]
            assert pickle.loads(pickle.dumps(file)).read() == new
