"""FORMAT.md is true: its own forty lines of Python prove what is stored, on a disk and in a bucket."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fsbackup
from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.errors import IntegrityError
from tests.replication.raw_replicas import MARKER, RawBucket, RawDisk, blocks, manifest_name, sealed
from tests.replication.rig import MIB, PART, ReplicaRig, connect, content, make_rig
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint, client

FORMAT = Path(fsbackup.__file__).with_name("FORMAT.md")
KEY = "backups/full/2025/10/db.sql.gz"
#: Every kind of key that is stored under another name.
ODD_KEYS = (
    "a?b",
    "per%cent",
    "a::b",
    "x[1]*\\",
    "n" * 250,
    "d/" + "é" * 200,
    "日" * 85,
    "]" * 200,
    "e\u0301",
    "]\u0307",
    ".fsbackup-not",
    "d/.fsbackup/x",
    "control\x01\x9f\uffff",
    "not UTF-8 \udcff",
    "\udcc3" * 90,
    "a::b[1]*?/per%cent\x01/e\u0301/\udcff" + "n" * 250,
)


def reader() -> str:
    """Return the program in FORMAT.md."""
    (program,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert isinstance(program, str)
    return program


def functions() -> dict[str, Any]:
    """Return the functions of the program in FORMAT.md."""
    names: dict[str, Any] = {"__name__": "reader"}
    exec(compile(reader(), str(FORMAT), "exec"), names)
    return names


def prove(data: bytes, record: bytes, key: str) -> dict[str, Any]:
    """Call the function of FORMAT.md."""
    manifest: dict[str, Any] = functions()["prove"](data, record, key)
    return manifest


def name_of(key: str) -> str:
    """Return the name of a key by the function of FORMAT.md."""
    return "/".join(map(functions()["name"], key.split("/")))


@pytest.fixture
def rig(moto: S3Endpoint, strict_b2: S3Endpoint, tmp_path: Path) -> Any:
    with make_rig(moto, strict_b2, tmp_path, proxied=False) as made:
        yield made


def test_the_program_proves_a_file_on_a_disk(tmp_path: Path) -> None:
    """As a person runs it, of several parts and blocks; a flipped bit is noticed."""
    data = content(PART + 1)
    (tmp_path / "source").write_bytes(data)
    store = ReplicatedStorage([LocalStorage(tmp_path / "disk")], part_size=PART, errors="raise")
    store.replicate(tmp_path / "source", KEY)
    run = [sys.executable, "-c", reader(), str(tmp_path / "disk"), KEY]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"proven: {len(data)} bytes, {hashlib.sha256(data).hexdigest()}")
    stored = tmp_path / "disk" / KEY
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    assert subprocess.run(run, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key[:16]))
def test_the_program_finds_every_key_on_a_disk(tmp_path: Path, key: str) -> None:
    """Also where the name that is stored is not the key."""
    (tmp_path / "source").write_bytes(content(100))
    assert LocalStorage(tmp_path / "disk").upload(str(tmp_path / "source"), key)
    run = [sys.executable, "-c", reader(), str(tmp_path / "disk"), key]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.startswith("proven: 100 bytes")


#: Records that are no manifest, sealed or not.
NO_MANIFESTS: dict[str, bytes] = {
    **{text: text.encode() for text in ("", "[]", "{}", "null", "1", '"x"', '{"checksum":1}', '{"checksum":"x"}')},
    "no JSON": b"\xff",
    "nested": b"[" * 100_000,
    "nothing sealed": json.dumps(sealed({})).encode(),
    "a tombstone": json.dumps(sealed({"format": 1, "kind": "tombstone", "key": KEY, "generation": 1})).encode(),
    "no size": json.dumps(sealed({"format": 1, "kind": "manifest", "key": KEY, "sha256": "0" * 64})).encode(),
    "a size in text": json.dumps(
        sealed({"format": 1, "kind": "manifest", "key": KEY, "size": "0", "sha256": "0" * 64})
    ).encode(),
    "of a later format": json.dumps(
        sealed({"format": 2, "kind": "manifest", "key": KEY, "size": 0, "sha256": hashlib.sha256().hexdigest()})
    ).encode(),
}


@pytest.mark.parametrize("record", NO_MANIFESTS)
def test_the_program_refuses_what_is_no_manifest(record: str) -> None:
    """By the error that its docstring names."""
    with pytest.raises(ValueError, match=r"."):
        prove(b"", NO_MANIFESTS[record], KEY)


@pytest.mark.parametrize(
    ("size", "key"),
    [(0, KEY), (100, ODD_KEYS[-1]), (PART + 1, KEY), (PART + 1, ODD_KEYS[-1])],
    ids=["empty", "odd", "parts", "odd parts"],
)
def test_an_object_in_a_bucket_carries_its_proof(rig: ReplicaRig, size: int, key: str) -> None:
    """The manifest is in the metadata, or in the object that the metadata names; beside it is only the marker."""
    rig.store().replicate(rig.file(content(size)), key)
    for role in ("r2", "b2"):
        endpoint, name = rig.endpoints[role], f"{rig.prefix}/{name_of(key)}"
        head = s3.head(endpoint, name)
        assert head is not None
        record, stored = head.metadata["fsbackup"], {name}
        if size > PART:
            record_name = f"{rig.prefix}/.fsbackup/records/{name_of(key)}/{record}"
            record, stored = s3.read_bytes(endpoint, record_name).decode(), {name, record_name}
        assert prove(s3.read_bytes(endpoint, name), record.encode(), key)["size"] == size
        assert set(s3.list_keys(endpoint, rig.prefix)) == {*stored, f"{rig.prefix}/{MARKER}"}


def test_a_copy_under_another_name_is_not_believed(rig: ReplicaRig) -> None:
    """`aws s3 cp` brings the manifest along; it names the other key."""
    store = ReplicatedStorage([rig.backend("r2")], errors="raise")
    store.replicate(rig.file(content(100)), KEY)
    endpoint = rig.endpoints["r2"]
    client(endpoint).copy_object(
        Bucket=endpoint.bucket,
        Key=f"{rig.prefix}/other",
        CopySource={"Bucket": endpoint.bucket, "Key": f"{rig.prefix}/{KEY}"},
    )
    assert {each.key: each.state for each in store.verify().problems} == {"other": "damaged"}


#: What becomes of a manifest inside an object, made of it and of another key's.
STRANGE: dict[str, Callable[[str, str], str]] = {
    "gone": lambda _own, _other: "",
    "cut": lambda own, _other: own[:-20],
    "cut to its brace": lambda own, _other: own[0],
    "of another key": lambda _own, other: other,
    "doubled by a proxy": lambda own, _other: f"{own}, {own}",
    "of 1,500 letters": lambda _own, _other: "x" * 1500,
    "an id with nothing behind it": lambda _own, _other: "0" * 32,
    "an id that is a path": lambda _own, _other: "../" * 10 + "ab",
}


@pytest.mark.parametrize("strange", STRANGE)
def test_metadata_that_is_no_manifest_is_never_believed(rig: ReplicaRig, strange: str) -> None:
    """It is said, the data is read from the others, and both an upload and a repair give the manifest back."""
    store, data = rig.store(min_copies=2), content(100)
    for key in (KEY, "other"):
        store.replicate(rig.file(data), key)
    raw = rig.raw_replicas["b2"]
    own, other = (raw.get(manifest_name(key)) for key in (KEY, "other"))
    assert own is not None
    assert other is not None
    metadata = STRANGE[strange](own.decode(), other.decode())

    def harm() -> None:
        if metadata:
            raw.put(manifest_name(KEY), metadata.encode())
        else:
            raw.drop(manifest_name(KEY))

    harm()
    state = "damaged" if metadata else "no manifest"
    assert [(each.backend, each.state) for each in store.verify().problems] == [("b2", state)]
    assert store.read(KEY) == data
    assert store.repair().done == {"write manifest": 1}
    assert store.verify().found == 0
    harm()
    assert store.replicate(rig.file(data), KEY, overwrite=True).status == "complete"
    assert store.verify().found == 0


def test_a_record_that_is_missing_behind_its_id_is_called_missing(rig: ReplicaRig) -> None:
    """By verify, by a read that nothing proves any more, and by the repair that writes it again."""
    data = content(PART + 1)
    both, alone = rig.store(min_copies=2), ReplicatedStorage([rig.backend("b2")], errors="raise")
    both.replicate(rig.file(data), KEY)
    endpoint = rig.endpoints["b2"]
    (record,) = s3.list_keys(endpoint, f"{rig.prefix}/.fsbackup/records/")
    s3.delete_key(endpoint, record)
    [problem] = alone.verify().problems
    assert (problem.state, problem.detail) == ("damaged", "the record behind its id is missing")
    with pytest.raises(IntegrityError, match="damaged or missing") as raised:
        alone.read(KEY)
    assert "file or object under its own name" in str(raised.value)
    [step] = both.repair().steps
    assert step.action.reason == "the data is right, its manifest is missing"
    assert alone.verify().found == 0
    assert alone.read(KEY) == data


def test_metadata_of_three_kib_is_no_manifest(strict_r2: S3Endpoint, tmp_path: Path) -> None:
    """R2 takes more than others do; what is more than a manifest can be is not one."""
    (tmp_path / "source").write_bytes(content(100))
    store = ReplicatedStorage([LocalStorage(tmp_path / "disk"), connect("r2", strict_r2, "three-kib")])
    store.replicate(tmp_path / "source", KEY)
    raw = RawBucket(strict_r2, "three-kib/")
    own = raw.get(manifest_name(KEY))
    assert own is not None
    raw.put(manifest_name(KEY), own[:-1] + b',"x":"' + b"x" * 3072 + b'"}')
    assert [(each.backend, each.state) for each in store.verify().problems] == [("r2", "damaged")]
    assert store.read(KEY) == content(100)
    assert store.repair().done == {"write manifest": 1}
    assert store.verify().found == 0


def test_a_bucket_of_the_version_before_says_so(rig: ReplicaRig) -> None:
    """Where manifests lie beside the objects, `records: beside` reads them; without it the replica is unknown."""
    beside = rig.beside()
    beside.store().replicate(rig.file(content(100)), KEY)
    assert s3.read_bytes(rig.endpoints["r2"], f"{rig.prefix}/.fsbackup/manifests/{KEY}")
    assert beside.store().verify().status == "complete"
    problems = rig.store(min_copies=1).verify().problems
    assert {(each.backend, each.state) for each in problems} == {("r2", "unknown"), ("b2", "unknown")}
    assert all("records: beside" in each.detail for each in problems)


@pytest.mark.parametrize("size", [0, 100, MIB, MIB + 1])
def test_one_block_has_the_hash_of_the_whole(tmp_path: Path, size: int) -> None:
    """Of a stream, whose size is not known before, as of a file; several blocks have BLAKE3."""
    store, raw = ReplicatedStorage([LocalStorage(tmp_path / "disk")], errors="raise"), RawDisk(tmp_path / "disk")
    (tmp_path / "source").write_bytes(content(size))
    store.replicate(tmp_path / "source", "file")
    store.replicate(io.BytesIO(content(size)), "stream", allow_empty=True)
    for key in ("file", "stream"):
        assert raw.provable(key) == content(size)
        name = json.loads(raw.get(manifest_name(key)) or b"").get("block_hash", "sha256")
        assert name == ("sha256" if size <= MIB else "blake3")


def test_blocks_of_an_earlier_version_are_proven_by_their_own_hash(rig: ReplicaRig, tmp_path: Path) -> None:
    """Their hash was SHA-256; they are read, found rotten, and repaired from one another like those of today."""
    store, data = rig.store(min_copies=2), content(3 * MIB + 1)
    store.replicate(rig.file(data), KEY)
    for raw in rig.raw_replicas.values():
        manifest = json.loads(raw.get(manifest_name(KEY)) or b"")
        assert manifest.pop("block_hash") == "blake3"
        raw.set_manifest(KEY, {**manifest, "blocks": blocks(data, MIB)})
        assert raw.provable(KEY) == data
    stored = rig.base / KEY
    stored.write_bytes(data[:MIB] + bytes(MIB) + data[2 * MIB :])
    store.restore(KEY, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    [problem] = rig.store(min_copies=2).verify(deep=True).problems
    assert (problem.backend, problem.state) == ("local", "damaged")
    assert "1 of 4 blocks rotten, the first is block 1" in problem.detail
    assert store.repair(deep=True).status == "complete"
    assert stored.read_bytes() == data


def test_a_key_with_every_odd_letter_fits_into_a_header(rig: ReplicaRig) -> None:
    """Two spaces, ``=?``, a quote, other alphabets: what proxies, signing and R2 change is written otherwise."""
    key = 'a  b/=?utf-8?q?c?=/"\\\\,;/日本/é'
    store = rig.store()
    assert store.replicate(rig.file(content(100)), key).status == "complete"
    assert store.verify().status == "complete"
    assert json.loads(json.dumps(key)) == store.stat(key).key
