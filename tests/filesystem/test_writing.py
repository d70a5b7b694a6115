"""Writes: an object is whole on enough replicas, or absent. Removals: the named paths and no others."""

from __future__ import annotations

import io
import secrets
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from fsspec.exceptions import FSTimeoutError
from pyarrow.fs import FSSpecHandler, PyFileSystem

from fsbackup import ReplicatedStorage
from fsbackup.backends import SingleBackend
from fsbackup.errors import FsbackupError, NoHealthyReplicaError
from fsbackup.filesystem import FsbackupFileSystem
from fsbackup.stores.s3.providers import R2
from tests.filesystem.configured_set import ROOT, SET, ConfiguredSet
from tests.integration.cli_helpers import wait_until
from tests.integration.s3_helpers import connect
from tests.matrix import matrix
from tests.replication.rig import MIB, content
from tests.servers.bucket import list_keys, list_uploads
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Hold, Refuse, Status, fault_proxy


@pytest.fixture
def path() -> str:
    return f"{ROOT}/{secrets.token_hex(4)}/data.bin"


def key_of(path: str) -> str:
    return path.removeprefix(f"{SET}/")


def files(configured: ConfiguredSet) -> set[str]:
    """Return every file in the site's directories, those of fsbackup included."""
    return {
        str(each.relative_to(base))
        for base in configured.bases.values()
        for each in base.rglob("*")
        if each.is_file()
    }


@pytest.mark.parametrize("size", [0, 5, 4 * MIB, 23 * MIB + 1])
def test_open_to_write(configured: ConfiguredSet, path: str, size: int) -> None:
    """A file written piece by piece is on every replica, with a manifest."""
    data = content(size)
    fs = configured.fs()
    with fs.open(path, "wb") as file:
        for at in range(0, size, 1_000_000):
            file.write(data[at : at + 1_000_000])
    info = configured.storage().stat(key_of(path))
    assert {each.state for each in info.replicas.values()} == {"present"}
    assert fs.cat_file(path) == data


@pytest.mark.each_choice
@pytest.mark.parametrize("size", [0, 5, 13 * MIB + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_pipe_file(buckets: ConfiguredSet, path: str, size: int, kind: Callable[[bytes], bytes]) -> None:
    """Bytes of any size are stored; the same content again is no new version."""
    data, fs = content(size), buckets.fs()
    fs.pipe_file(path, kind(data))
    before = fs.info(path)
    fs.pipe_file(path, kind(data))
    assert buckets.fs().info(path) == before
    assert buckets.fs().cat_file(path) == data
    fs.pipe_file(path, data[::-1] + b"1")
    assert buckets.fs().cat_file(path) == data[::-1] + b"1"
    with pytest.raises(TypeError):
        fs.pipe_file(path, 5)


def test_a_replacement_on_r2_is_a_look_and_a_put(moto: S3Endpoint) -> None:
    """The look is a HEAD; the PUT is conditional, and no other follows."""
    with fault_proxy(moto) as proxy:
        store = connect(proxy.endpoint, profile=R2, prefix=secrets.token_hex(4))
        fs = ReplicatedStorage([SingleBackend(store)], name="one").fs
        fs.pipe_file("one/x", b"1")
        proxy.forget()
        fs.pipe_file("one/x", b"22")
        assert [request.operation for request in proxy.requests] == ["head", "put_object"]
        assert fs.cat_file("one/x") == b"22"


def test_pipe_file_waits_for_no_slow_replica(buckets: ConfiguredSet, path: str) -> None:
    """One replica gets all parts while the other one has not answered its first."""
    slow = buckets.proxies["moto0"].add(Hold(), on="upload_part")
    data = content(80 * MIB)  # more than the 64 MiB of parts that an upload keeps in memory
    writing = threading.Thread(target=buckets.fs().pipe_file, args=(path, data))
    writing.start()
    try:
        slow.wait_reached()
        wait_until(lambda: buckets.proxies["seaweedfs1"].count("complete"))
    finally:
        slow.release()
        writing.join()
    assert buckets.fs().cat_file(path) == data


class TroubleError(Exception):
    """An error while a file is open."""


def _in_with(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "wb") as file:
        file.write(data)
        raise TroubleError


def _in_text(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "w", encoding="latin-1") as file:
        file.write(data.decode("latin-1"))
        raise TroubleError


def _in_fsspec_open(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fsspec.open(f"fsbackup://{path}", "wb", config=fs.config) as file:
        file.write(data)
        raise TroubleError


def _in_compression(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fsspec.open(f"fsbackup://{path}", "wb", compression="gzip", config=fs.config) as file:
        file.write(data)
        raise TroubleError


def _in_compressed_with(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "wb", compression="gzip") as file:
        file.write(data)
        raise TroubleError


def _in_a_wrapper(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with io.TextIOWrapper(fs.open(path, "wb"), encoding="latin-1") as file:
        file.write(data.decode("latin-1"))
        raise TroubleError


def _in_closing(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with ExitStack() as stack:
        file = stack.enter_context(closing(fs.open(path, "wb")))
        file.write(data)
        raise TroubleError


def _in_a_generator(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    @contextmanager
    def opened() -> Iterator[Any]:
        file = fs.open(path, "wb")
        try:
            yield file
        finally:
            file.close()

    with opened() as file:
        file.write(data)
        raise TroubleError


def _in_zipfile(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("name", data)
        raise TroubleError


def _in_pyarrow(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with PyFileSystem(FSSpecHandler(fs)).open_output_stream(path) as file:
        file.write(data)
        raise TroubleError


class _Trouble:
    def __str__(self) -> str:
        raise TroubleError


def _in_pandas(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    frame = pd.DataFrame({"text": [data.hex(), _Trouble()]})
    frame.to_csv(f"fsbackup://{path}", storage_options={"config": fs.config}, chunksize=1)


WAYS = [
    _in_with,
    _in_text,
    _in_fsspec_open,
    _in_compression,
    _in_compressed_with,
    _in_a_wrapper,
    _in_closing,
    _in_a_generator,
    _in_zipfile,
    _in_pyarrow,
    _in_pandas,
]


@pytest.mark.each_choice
@pytest.mark.parametrize("size", [10, 20 * MIB])
@pytest.mark.parametrize("way", WAYS)
def test_an_exception_discards(
    disks: ConfiguredSet, path: str, way: Callable[[FsbackupFileSystem, str, bytes], None], size: int
) -> None:
    """Whatever closes the file after an exception, nothing of it is stored, and the old version stays."""
    fs = disks.fs()
    fs.pipe_file(path, b"old")
    before = files(disks)
    with pytest.raises(TroubleError):
        way(fs, path, content(size))
    assert disks.fs().cat_file(path) == b"old"
    assert files(disks) == before


def test_a_file_written_while_an_error_is_handled(disks: ConfiguredSet, path: str) -> None:
    """The error is older than the file: the file is stored."""
    fs = disks.fs()
    try:
        raise TroubleError
    except TroubleError:
        with fs.open(path, "wb") as file:
            file.write(b"report")
    assert fs.cat_file(path) == b"report"


def test_an_empty_file_is_written(disks: ConfiguredSet, path: str) -> None:
    """However it comes: piped, opened and closed, or copied."""
    fs = disks.fs()
    fs.pipe_file(path, b"")
    with fs.open(f"{path}-opened", "wb"):
        pass
    fs.cp_file(path, f"{path}-copied")
    assert [fs.cat_file(f"{path}{end}") for end in ("", "-opened", "-copied")] == [b""] * 3


def test_create_only(disks: ConfiguredSet, path: str) -> None:
    """ "xb" and mode="create" refuse what is there, also when it is empty."""
    fs = disks.fs()
    with fs.open(path, "xb"):
        pass
    assert fs.cat_file(path) == b""
    with pytest.raises(FileExistsError):
        fs.open(path, "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file(path, b"", mode="create")


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_nothing_is_changed_in_place(disks: ConfiguredSet, path: str, mode: str) -> None:
    fs = disks.fs()
    fs.pipe_file(path, b"old")
    with pytest.raises(io.UnsupportedOperation, match="whole"):
        fs.open(path, mode)
    assert fs.cat_file(path) == b"old"


def _in_transaction(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(data)
        raise TroubleError


def test_transactions(disks: ConfiguredSet, path: str) -> None:
    """Files of a transaction appear at its end, or, when it fails, not at all."""
    fs = disks.fs()
    with fs.transaction:
        with fs.open(path, "wb") as file:
            file.write(b"day")
        assert not disks.fs().exists(path)
    assert disks.fs().cat_file(path) == b"day"
    with pytest.raises(TroubleError):
        _in_transaction(fs, path, b"night")
    assert disks.fs().cat_file(path) == b"day"


@pytest.mark.parametrize("size", [100, 40 * MIB])
def test_too_few_copies_is_an_error(buckets: ConfiguredSet, path: str, size: int) -> None:
    """`write`, or at the latest `close`, raises an error that names the replica."""
    buckets.proxies["moto0"].add(Status(403, "AccessDenied"), on="any", key=buckets.data("moto0", ""))
    with pytest.raises(FsbackupError, match="moto0"):
        _write(buckets.fs(), path, content(size))


def _write(fs: FsbackupFileSystem, path: str, data: bytes) -> None:
    with fs.open(path, "wb") as file:
        for at in range(0, len(data), 4_000_000):
            file.write(data[at : at + 4_000_000])


def test_put_and_cp(configured: ConfiguredSet, path: str, tmp_path: Path) -> None:
    """A local file keeps its time; a copy is a new object with the same bytes."""
    source = tmp_path / "source"
    source.write_bytes(content(7 * MIB))
    fs = configured.fs()
    fs.put_file(str(source), path)
    fs.cp_file(path, f"{path}.copy")
    assert fs.cat_file(f"{path}.copy") == source.read_bytes()
    fs.mv(path, f"{path}.moved")
    assert fs.cat_file(f"{path}.moved") == source.read_bytes()
    assert not fs.exists(path)
    fs.get_file(f"{path}.moved", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_put_of_a_changing_source(disks: ConfiguredSet, path: str, tmp_path: Path) -> None:
    """A directory as a source makes a directory; a missing one is an error."""
    fs = disks.fs()
    fs.put_file(str(tmp_path), f"{ROOT}/made")
    assert fs.isdir(f"{ROOT}/made")
    with pytest.raises(FileNotFoundError):
        fs.put_file(str(tmp_path / "missing"), path)


def test_rm_has_no_patterns(disks: ConfiguredSet, path: str) -> None:
    """A `*` has no special meaning."""
    fs = disks.fs()
    fs.pipe({f"{path}1": b"1", f"{path}2": b"2", f"{path}[x]": b"3"})
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{path}*")
    fs.rm(f"{path}[x]")
    assert fs.find(path.rpartition("/")[0]) == [f"{path}1", f"{path}2"]


def test_rm_of_directories(disks: ConfiguredSet, path: str) -> None:
    """Only with `recursive`, and never a whole set."""
    fs = disks.fs()
    top = path.rpartition("/")[0]
    fs.pipe({f"{top}/a": b"1", f"{top}/b/c": b"2", f"{top}.txt": b"3"})
    with pytest.raises(IsADirectoryError):
        fs.rm(top)
    with pytest.raises(PermissionError):
        fs.rm(SET, recursive=True)
    fs.rm(top, recursive=True)
    assert not fs.exists(top)
    assert fs.cat_file(f"{top}.txt") == b"3"


def test_rm_needs_complete_listings(buckets: ConfiguredSet, path: str) -> None:
    """While too few replicas answer, the content of a directory is unknown: nothing is removed."""
    buckets.min_copies = 1
    fs = buckets.fs()
    top = path.rpartition("/")[0]
    fs.pipe({f"{top}/a": b"1", f"{top}/b": b"2"})
    buckets.proxies["moto0"].add(Refuse())
    with pytest.raises(NoHealthyReplicaError, match="moto0"):
        buckets.fs().rm(top, recursive=True)
    buckets.proxies["moto0"].clear()
    assert buckets.fs().find(top) == [f"{top}/a", f"{top}/b"]


def test_empty_directories_are_remembered(disks: ConfiguredSet, path: str) -> None:
    """They exist in this process only, until `rmdir`."""
    fs = disks.fs()
    top = path.rpartition("/")[0]
    before = files(disks)
    fs.makedirs(f"{top}/a/b")
    assert fs.ls(f"{top}/a/b") == []
    assert fs.ls(f"{top}/a", detail=False) == [f"{top}/a/b"]
    assert files(disks) == before
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{top}/a")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{top}/a")
    fs.rmdir(f"{top}/a/b")
    assert not fs.exists(f"{top}/a/b")


@pytest.mark.parametrize("bad", ["", "pair", "pair/../x", "pair/.fsbackup/x", "pair/a//b"])
def test_illegal_paths(disks: ConfiguredSet, bad: str) -> None:
    """Nothing is written under them."""
    before = files(disks)
    with pytest.raises(ValueError, match=r"key|set"):
        disks.fs().pipe_file(bad, b"1")
    assert files(disks) == before


def test_a_copy_that_cannot_be_stored_ends(buckets: ConfiguredSet, path: str) -> None:
    """All replicas refuse the target long before the source ends: the copy ends with their error."""
    fs = buckets.fs()
    fs.pipe_file(path, content(60 * MIB))
    for name, proxy in buckets.proxies.items():
        proxy.add(
            Status(403, "AccessDenied"), on="create_multipart", key=buckets.data(name, f"{key_of(path)}.copy")
        )
    with pytest.raises(FsbackupError, match=r"moto0|seaweedfs1"):
        fs.cp_file(path, f"{path}.copy")
    assert not buckets.fs().exists(f"{path}.copy")


def _put(fs: FsbackupFileSystem, path: str, source: Path) -> None:
    fs.put(str(source), path)


def _pipe(fs: FsbackupFileSystem, path: str, source: Path) -> None:
    fs.pipe({path: source.read_bytes()})


def _copy(fs: FsbackupFileSystem, path: str, source: Path) -> None:  # noqa: ARG001
    fs.copy(f"{ROOT}/kept", path)


def _write_and_close(fs: FsbackupFileSystem, path: str, source: Path) -> None:
    with fs.open(path, "wb") as file:
        file.write(source.read_bytes())


def _write_more_than_fits(fs: FsbackupFileSystem, path: str, source: Path) -> None:
    with fs.open(path, "wb") as file:
        for _ in range(10):
            file.write(source.read_bytes())


@contextmanager
def held_back(configured: ConfiguredSet, path: str) -> Iterator[list[Hold]]:
    """Hold back all parts of an object; at the end their connections are cut."""
    try:
        yield [proxy.add(Hold(), on="upload_part", key=key_of(path)) for proxy in configured.proxies.values()]
    finally:
        for proxy in configured.proxies.values():
            proxy.cut_connections()
            proxy.clear()


def assert_nothing_of(path: str, configured: ConfiguredSet) -> None:
    """Check that the servers have neither the object nor an unfinished upload of it."""
    for each in configured.proxies.values():
        assert not list_uploads(each.endpoint, configured.prefix)
        assert not [name for name in list_keys(each.endpoint, configured.prefix) if key_of(path) in name]
    assert not configured.fs().exists(path)


@pytest.mark.parametrize("write", [_put, *map(matrix, [_write_more_than_fits, _pipe, _copy, _write_and_close])])
def test_ctrl_c_ends_the_upload_too(
    buckets: ConfiguredSet, path: str, tmp_path: Path, write: Callable[[FsbackupFileSystem, str, Path], None]
) -> None:
    """After the interrupt nothing runs on in the background, and nothing of the upload is left behind."""
    fs = buckets.fs()
    source = tmp_path / "large"
    source.write_bytes(content(20 * MIB))
    fs.put_file(str(source), f"{ROOT}/kept")

    def interrupt() -> None:
        for gate in gates:
            gate.wait_reached()
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # any thread may be the one that takes it

    with held_back(buckets, path) as gates:
        pressing = threading.Thread(target=interrupt)
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            write(fs, path, source)
        pressing.join()
    assert_nothing_of(path, buckets)
    fs.put_file(str(source), path)
    assert fs.cat_file(path) == source.read_bytes()


def test_a_timeout_ends_it_too(buckets: ConfiguredSet, path: str) -> None:
    """`timeout`, in seconds, as fsspec's methods have it."""
    with held_back(buckets, path), pytest.raises(FSTimeoutError):
        buckets.fs().pipe(path, content(20 * MIB), timeout=2)
    assert_nothing_of(path, buckets)
