"""Compressed and encrypted on the way: exactly what others can undo, stored once, and never half undone."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import io
import json
import os
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyrage
import pytest

from fsbackup import Command, ReplicatedStorage, Stages, record
from fsbackup.engine.open_source import open_source
from fsbackup.errors import (
    BackendError,
    ConfigError,
    ConflictError,
    IntegrityError,
    SourceError,
    UnknownIdentityError,
)
from fsbackup.record import Manifest
from fsbackup.replication.batch import BatchItem
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import MemoryStore, backend
from tests.replication.rig import MIB, PART, ReplicaRig
from tests.replication.staged import KINDS, SUFFIX, Staged, ssh_key, zstd

#: Neither nothing nor all of it can be compressed, and it is more than one part and many chunks of age.
DATA = random.Random(1).randbytes(MIB + 5) + b"the same line again\n" * 100_000


@pytest.fixture
def place(tmp_path: Path) -> Staged:
    return Staged.make(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [DATA, b"", b"x"], ids=["large", "empty", "byte"])
def test_what_is_stored_is_what_the_programs_make(place: Staged, kind: str, data: bytes) -> None:
    """Whoever has the key undoes it without us; the record describes the stored bytes, and is sparing else."""
    path = place.file(data)
    os.utime(path, ns=(1, 1_500_000_000_987_654_321))
    path.chmod(0o640)
    report = place.store().replicate(path, "db/x", stages=place.stages(kind))
    assert (report.status, report.key, report.plain_size) == ("complete", f"db/x{SUFFIX[kind]}", len(data))
    assert place.raw(report.key, "a") == place.raw(report.key, "b")
    assert place.plain(report.key) == data
    record, stored = place.record(report.key), place.raw(report.key)
    assert (record["size"], record["sha256"]) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert (record["source"]["mode"], record["source"]["mtime_ns"]) == (0o640, 1_500_000_000_987_654_321)
    first, *others = record["stages"]
    assert [each["stage"] for each in (first, *others)] == kind.split("+")
    assert first["size"] == len(data)
    if kind == "zstd":
        assert stored[4] & 4, "the checksum of the content is there, as zstd makes it"
    sha256 = hashlib.sha256(data)
    if "age" in kind:
        secret = bytes.fromhex(place.key_file.read_text())
        assert first["hmac"] == hmac.new(secret, sha256.digest(), "sha256").hexdigest()
        assert sha256.hexdigest() not in json.dumps(record), "nobody who reads the bucket can test a guess"
    else:
        assert first["sha256"] == sha256.hexdigest()
        assert not place.key_file.exists(), "nothing secret is needed"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_again_sends_nothing(place: Staged, kind: str) -> None:
    """Also from a stream, with overwrite, and by another process of the host."""
    path, store = place.file(DATA), place.store()
    report = store.replicate(path, "x", stages=place.stages(kind))
    before = place.raw(report.key)
    for source, overwrite in ((path, False), (io.BytesIO(DATA), False), (path, True)):
        again = store.replicate(source, "x", stages=place.stages(kind), overwrite=overwrite)
        assert (again.status, again.already, again.plain_size) == ("complete", True, len(DATA)), overwrite
    assert place.raw(report.key) == before
    for source in (place.file(DATA + b"more"), io.BytesIO(b"other"), place.file(DATA[:-1] + b"!")):
        other = store.replicate(source, "x", stages=place.stages(kind))
        assert not other
        assert isinstance(other.failure(), ConflictError)
        assert not isinstance(other.failure(), UnknownIdentityError)
    assert place.raw(report.key) == before
    assert store.replicate(place.file(b"new"), "x", stages=place.stages(kind), overwrite=True).status == "complete"
    assert place.plain(report.key) == b"new"


@pytest.mark.parametrize("kind", ["age", "zstd+age"])
def test_other_recipients_are_not_taken_for_the_same(
    place: Staged, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who changes the keys wants them to open the backups: with overwrite they do, without it is said that not."""
    path, store, other = place.file(DATA), place.store(), pyrage.x25519.Identity.generate()
    report = store.replicate(path, "x", stages=place.stages(kind))
    before = place.raw(report.key)
    both = Stages(
        compress="zstd" if "zstd" in kind else None,
        encrypt={"age": [str(other.to_public()), place.recipient]},
        identity_key_file=place.key_file,
    )
    assert store.replicate(path, "x", stages=both).already
    assert "encrypted to other recipients" in caplog.text
    assert place.raw(report.key) == before
    again = store.replicate(path, "x", stages=both, overwrite=True)
    assert (again.status, again.already) == ("complete", False)
    pyrage.decrypt(place.raw(report.key), [other])
    assert place.plain(report.key) == DATA
    assert store.replicate(path, "x", stages=both, overwrite=True).already


@pytest.mark.parametrize("source", ["file", "command"])
def test_who_lacks_it_gets_the_ciphertext_of_the_others(place: Staged, source: str) -> None:
    """Encrypting it again would make another object: there would be two contents for ever."""
    path = place.file(b"a line\n" * 1000)
    what = path if source == "file" else Command(["cat", str(path)])
    store = place.store()
    report = store.replicate(what, "x", stages=place.stages())
    stored = place.raw(report.key)
    (place.root / "b" / report.key).unlink()
    again = store.replicate(what, "x", stages=place.stages())
    assert again.status == "complete"
    assert {name: result.already for name, result in again.replicas.items()} == {"a": True, "b": False}
    assert place.raw(report.key, "b") == stored
    (place.root / "b" / report.key).unlink()
    assert store.repair("").status == "complete", "without any key"
    assert place.raw(report.key, "b") == stored


def test_what_nobody_proves_any_more_is_stored_as_a_new_version(place: Staged) -> None:
    """All copies rotten: the same source again is not refused for being the same, and not believed to be there."""
    path, store = place.file(DATA), place.store()
    report = store.replicate(path, "x", stages=place.stages())
    for disk in ("a", "b"):
        with open(place.root / disk / report.key, "r+b") as file:
            file.seek(1_000_000)
            file.write(b"rotten")
    assert store.replicate(path, "x", stages=place.stages(), overwrite=True).status == "complete"
    assert place.plain(report.key, "a") == place.plain(report.key, "b") == DATA


@pytest.mark.parametrize("overwrite", [False, True])
def test_rot_that_no_etag_shows_is_found_by_reading(place: Staged, overwrite: bool) -> None:
    """The ciphertext comes from the other copy; when there is no right one, a new one is made of the file."""
    one, two = MemoryStore("one"), MemoryStore("two")
    store, path = ReplicatedStorage([backend(one), backend(two)]), place.file(DATA)
    assert store.replicate(path, "x", stages=place.stages()).status == "complete"
    stored = one.objects["x.zst.age"]
    one.objects["x.zst.age"] = stored[:-1] + b"!"
    assert store.replicate(path, "x", stages=place.stages(), overwrite=overwrite).status == "complete"
    assert one.objects["x.zst.age"] == two.objects["x.zst.age"] == stored
    one.objects["x.zst.age"] = two.objects["x.zst.age"] = stored[:-1] + b"!"
    assert store.replicate(path, "x", stages=place.stages(), overwrite=overwrite).status == "complete"
    assert one.objects["x.zst.age"] == two.objects["x.zst.age"] != stored
    (place.root / "a").mkdir()
    (place.root / "a/x.zst.age").write_bytes(one.objects["x.zst.age"])
    assert place.plain("x.zst.age") == DATA


def test_a_lost_identity_key_costs_a_second_copy_and_no_more(place: Staged) -> None:
    """Nothing can be told of what was stored with it: that is said, and with overwrite it is stored once more."""
    path, store = place.file(DATA), place.store()
    report = store.replicate(path, "x", stages=place.stages())
    place.key_file.unlink()
    again = store.replicate(path, "x", stages=place.stages())
    assert not again
    assert isinstance(again.failure(), UnknownIdentityError)
    assert "identity_key_file" in str(again.failure())
    assert (place.key_file.stat().st_mode & 0o777) == 0o600, "a new one was made, for the owner alone"
    assert not store.replicate(place.file(b"of another size"), "x", stages=place.stages())
    assert store.replicate(place.file(DATA), "x", stages=place.stages(), overwrite=True).status == "complete"
    assert store.replicate(path, "x", stages=place.stages()).already
    assert place.plain(report.key) == DATA


@pytest.mark.parametrize(("content", "mode"), [("not hex", 0o600), ("ab" * 16, 0o600), ("ab" * 32, 0o644)])
def test_an_identity_key_that_is_none_or_open_is_refused(place: Staged, content: str, mode: int) -> None:
    """Nothing is stored with a guess of it, and the error does not say what is in the file."""
    place.key_file.parent.mkdir()
    place.key_file.write_text(content)
    place.key_file.chmod(mode)
    with pytest.raises(ConfigError, match=re.escape(str(place.key_file))) as caught:
        place.store().replicate(place.file(b"x"), "x", stages=place.stages())
    assert content not in str(caught.value)
    assert not (place.root / "a").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_fails_is_never_stored(place: Staged, kind: str) -> None:
    """However late, however much of it was compressed and encrypted by then; and no thread is left behind."""
    script = "import os, sys; [os.write(1, os.urandom(1 << 20)) for _ in range(20)]; sys.exit(3)"
    for command in (Command([sys.executable, "-c", script]), Command(["true"]), Command(["echo"], min_bytes=2)):
        with pytest.raises(SourceError):
            place.store().replicate(command, "x", stages=place.stages(kind))
    with pytest.raises(SourceError, match="empty stream"):
        place.store().replicate(io.BytesIO(), "x", stages=place.stages(kind))
    assert [path.name for path in (place.root / "a").rglob("*") if path.is_file()] in ([], ["backend"], ["lock"])


class Zeros(io.RawIOBase):
    """Zeros without end."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.reads += 1
        self.began.set()
        buffer[:] = bytes(len(buffer))
        return len(buffer)


async def test_an_upload_that_ends_early_ends_its_stages(place: Staged) -> None:
    """Also one that reads on and on, and has next to nothing to write."""
    zeros = Zeros()
    source = open_source(cast(BinaryIO, zeros), stages=place.stages("zstd"))
    reading = asyncio.ensure_future(source.next_part(MIB, md5=False))
    assert await asyncio.to_thread(zeros.began.wait, 30)
    source.close()
    before = zeros.reads
    with pytest.raises(SourceError, match="the upload has ended"):
        await reading
    for thread in (each for each in threading.enumerate() if each.name == "fsbackup-compress"):
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
    assert zeros.reads < before + 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_undoes_it(place: Staged, kind: str) -> None:
    """Into a file, a directory (without the suffixes), a stream and a tree; raw is as it is stored."""
    path, store, key = place.file(DATA), place.store(), f"t/sub/x{SUFFIX[kind]}"
    os.utime(path, ns=(1, 1_500_000_000_987_654_321))
    store.replicate(path, "t/sub/x", stages=place.stages(kind))
    store.replicate(place.file(b"as it is"), "t/plain")
    identity = place.root / "id.txt"
    report = store.restore(key, place.root / "whole", identity=identity)
    assert (report.plain_size, report.target) == (len(DATA), place.root / "whole")
    assert (place.root / "whole").read_bytes() == DATA
    assert (place.root / "whole").stat().st_mtime_ns == 1_500_000_000_987_654_321
    (place.root / "into").mkdir()
    assert store.restore(key, place.root / "into", identity=identity).target == place.root / "into" / "x"
    stream = io.BytesIO()
    store.restore(key, stream, identity=[identity])
    assert stream.getvalue() == DATA
    assert store.download(key, place.root / "five", identity=identity)
    assert (place.root / "five").read_bytes() == DATA
    tree = store.restore_tree("t", place.root / "tree", identity=identity)
    assert (tree.status, tree.bytes) == ("complete", len(DATA) + 8)
    assert (place.root / "tree/sub/x").read_bytes() == DATA
    assert store.restore_tree("t", place.root / "tree", identity=identity).already == (1 if "age" in kind else 2)
    store.restore(key, place.root / "raw", raw=True)
    assert (place.root / "raw").read_bytes() == place.raw(key)
    assert store.restore_tree("t", place.root / "raws", raw=True).objects == 2
    assert (place.root / f"raws/sub/x{SUFFIX[kind]}").read_bytes() == place.raw(key)


def test_two_objects_that_would_be_one_file_are_not(place: Staged) -> None:
    """The first one is there, whole; the other one has an error, not the first one's file."""
    store = place.store()
    store.replicate(place.file(b"plain"), "t/x")
    store.replicate(place.file(b"staged"), "t/x", stages=place.stages("zstd"))
    report = store.restore_tree("t", place.root / "tree")
    assert (report.objects, report.failures) == (1, 1)
    assert "another object" in str(report.failed[0].error)


def test_an_ssh_key_decrypts(place: Staged) -> None:
    """A recipient is a line of an ``.pub`` file, also in a file of recipients with comments."""
    key = ssh_key(place.root / "ssh")
    recipients = place.file(f"# backups\n\n{(place.root / 'ssh.pub').read_text()}\n".encode(), "recipients")
    stages = Stages(encrypt={"age": [f"file:{recipients}"]}, identity_key_file=place.key_file)
    place.store().replicate(place.file(DATA), "x", stages=stages)
    place.store().restore("x.age", place.root / "out", identity=key)
    assert (place.root / "out").read_bytes() == DATA


IDENTITIES = {
    "none": (None, "no identity is given"),
    "missing": ("nowhere", "cannot be read"),
    "of another": ("other.txt", "other recipients"),
    "no key": ("file", "no private key"),
    "public": ("ssh.pub", "no private key"),
    "passphrase": ("locked", "protected by a passphrase"),
    "encrypted": ("file.age", "protected by a passphrase"),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_an_identity_that_does_not_do_says_what_to_do(place: Staged, case: str) -> None:
    """And nothing is in the target's place."""
    name, expected = IDENTITIES[case]
    place.store().replicate(place.file(b"secret"), "x", stages=place.stages())
    ssh_key(place.root / "ssh")
    ssh_key(place.root / "locked", b"a passphrase")
    place.file(str(pyrage.x25519.Identity.generate()).encode(), "other.txt")
    place.file(pyrage.encrypt(str(place.identity).encode(), [place.identity.to_public()]), "file.age")
    target = place.root / "out"
    target.write_bytes(b"as it was")
    with pytest.raises(ConfigError, match=expected) as caught:
        place.store().restore("x.zst.age", target, identity=name and place.root / name)
    assert caught.value.hint
    assert target.read_bytes() == b"as it was"


def test_the_identity_can_come_from_the_environment(place: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where it is needed: a wrong one does not hinder what is not encrypted."""
    place.store().replicate(place.file(DATA), "x", stages=place.stages())
    place.store().replicate(place.file(DATA), "x", stages=place.stages("zstd"))
    monkeypatch.setenv("FSBACKUP_AGE_IDENTITY", str(place.root / "id.txt"))
    assert place.store().restore("x.zst.age", io.BytesIO()).plain_size == len(DATA)
    monkeypatch.setenv("FSBACKUP_AGE_IDENTITY", str(place.root / "nowhere"))
    assert place.store().restore("x.zst", io.BytesIO()).plain_size == len(DATA)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 20, 100_000])
def test_what_ends_in_the_middle_is_an_error_though_it_is_proven(place: Staged, kind: str, cut: int) -> None:
    """Bytes that were cut off before they were stored: the record proves them, the formats do not."""
    store = place.store()
    store.replicate(place.file(DATA), "whole", stages=place.stages(kind))
    key = f"whole{SUFFIX[kind]}"
    cut_off = place.raw(key)[:-cut]
    forge(place, key, cut_off)
    target = place.root / "out"
    with pytest.raises(IntegrityError):
        place.store().restore(key, target, identity=place.root / "id.txt")
    assert not target.exists()
    assert not list(place.root.glob("*.fsbackup-tmp*"))


def forge(place: Staged, key: str, data: bytes) -> None:
    """Put other data under a record that proves it and says the same of its stages."""
    for disk in ("a", "b"):
        path = place.root / disk / ".fsbackup/manifests" / key
        manifest = record.load(path.read_bytes())
        assert isinstance(manifest, Manifest)
        (place.root / disk / key).write_bytes(data)
        forged = replace(
            manifest,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            block_hash=None,
            blocks=tuple(hashlib.sha256(data[at : at + MIB]).hexdigest() for at in range(0, len(data), MIB)),
            etag=None,
        )
        path.write_bytes(record.dump(forged))


def test_other_bytes_than_the_record_names_are_an_error(place: Staged) -> None:
    """A frame that is whole, of another plaintext."""
    store = place.store()
    store.replicate(place.file(b"1234"), "x", stages=place.stages("zstd"))
    for plaintext in (b"12345", b"123", b"5678"):
        forge(place, "x.zst", zstd.compress(plaintext))
        with pytest.raises(IntegrityError, match="that were stored"):
            place.store().restore("x.zst", io.BytesIO())


def test_several_frames_are_one(place: Staged) -> None:
    """As ``pzstd`` and ``cat`` make them."""
    place.store().replicate(place.file(b"1234"), "x", stages=place.stages("zstd"))
    forge(place, "x.zst", zstd.compress(b"12") + zstd.compress(b"") + zstd.compress(b"34"))
    stream = io.BytesIO()
    place.store().restore("x.zst", stream)
    assert stream.getvalue() == b"1234"


def test_a_stage_that_is_not_known_is_said(place: Staged) -> None:
    """What a later version may add; the bytes can be had as they are."""
    place.store().replicate(place.file(b"1234"), "x", stages=place.stages("zstd"))
    for disk in ("a", "b"):
        path = place.root / disk / ".fsbackup/manifests/x.zst"
        manifest = record.load(path.read_bytes())
        assert isinstance(manifest, Manifest)
        path.write_bytes(record.dump(replace(manifest, stages=[{"stage": "brotli", "size": 4}])))
    with pytest.raises(ConfigError, match="brotli"):
        place.store().restore("x.zst", io.BytesIO())
    place.store().restore("x.zst", io.BytesIO(), raw=True)


def test_many_at_once(place: Staged) -> None:
    """A batch gives whole keys; what has not changed is known without being encrypted again."""
    stages = place.stages()
    items = [
        BatchItem(place.file(os.urandom(at * 1000), f"f{at}"), f"m/f{at}{stages.suffix}", stages=stages)
        for at in range(30)
    ]
    store = place.store()
    assert all(result.report and result.report.status == "complete" for result in store.replicate_many(items))
    assert all(result.report and result.report.already for result in store.replicate_many(items))
    assert all(place.plain(item.key) == Path(str(item.source)).read_bytes() for item in items)


def test_what_is_compressed_already_is_warned_of(place: Staged, caplog: pytest.LogCaptureFixture) -> None:
    """By its first bytes: names may say anything."""
    place.store().replicate(place.file(gzip.compress(DATA)), "x", stages=place.stages("zstd"))
    assert "looks compressed already (gzip)" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"compress": "gzip"}, "no compression that is known"),
        ({"compress": {"zstd": 20}}, "from 1 to 19"),
        ({"encrypt": {"age": []}}, "at least one public key"),
        ({"encrypt": {"age": ["age1xyz"]}}, "public key that age can encrypt to"),
        ({"encrypt": {"age": ["file:/nowhere"]}}, "cannot be read"),
        ({"encrypt": {"gpg": ["x"]}}, "no such encryption"),
        ({}, "do nothing"),
    ],
)
def test_stages_that_cannot_be(options: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Stages(**options)  # type: ignore[arg-type]


def test_a_private_key_among_the_recipients_is_refused_and_not_repeated(place: Staged) -> None:
    """Also in a file, and of SSH."""
    secret, key = str(place.identity), ssh_key(place.root / "ssh")
    for recipient in (secret, secret.lower(), f"file:{place.root / 'id.txt'}", f"file:{key}"):
        with pytest.raises(ConfigError, match="is a private key") as caught:
            Stages(encrypt={"age": [recipient]})
        assert secret[20:] not in str(caught.value).upper()
        assert key.read_text().splitlines()[1] not in str(caught.value)


@pytest.mark.parametrize(("same", "stream"), [(True, False), (True, True), (False, False)])
def test_who_comes_second_with_the_same_plaintext_has_succeeded(place: Staged, same: bool, stream: bool) -> None:
    """Both began where nothing was; each made another ciphertext, and the first one's is everywhere."""
    one, two = MemoryStore("one"), MemoryStore("two")
    store = ReplicatedStorage([backend(one), backend(two)])
    assert store.replicate(place.file(b"before"), "other").status == "complete", "in use"
    gates = [one.hold(1), two.hold(1)]
    with ThreadPoolExecutor() as threads:
        source = io.BytesIO(DATA) if stream else place.file(DATA)
        held = threads.submit(store.replicate, source, "x", stages=place.stages())
        for gate in gates:
            gate.wait_reached()
        one.gates.clear()
        two.gates.clear()
        first = store.replicate(io.BytesIO(DATA if same else b"other"), "x", stages=place.stages())
        assert first.status == "complete"
        stored = one.objects["x.zst.age"]
        for gate in gates:
            gate.release()
        second = held.result(timeout=60)
    assert one.objects["x.zst.age"] == two.objects["x.zst.age"] == stored
    assert second.status == ("complete" if same else "failed")
    assert second.sha256 == (first.sha256 if same else second.sha256)


def test_a_replica_that_is_away_gets_the_ciphertext_later(place: Staged) -> None:
    """A degraded upload tried again, as an archiver does, makes no second content."""
    one, two = MemoryStore("one"), MemoryStore("two")
    store = ReplicatedStorage([backend(one), backend(two)], min_copies=1)
    assert store.replicate(place.file(b"before"), "other").status == "complete", "in use"
    two.hold(1).fail()
    assert store.replicate(place.file(DATA), "x", stages=place.stages()).status == "degraded"
    two.gates.clear()
    assert store.replicate(io.BytesIO(DATA), "x", stages=place.stages()).status == "complete"
    assert one.objects["x.zst.age"] == two.objects["x.zst.age"]


def test_whoever_decrypts_the_backups_can_bring_the_identity_key_back(place: Staged) -> None:
    """A copy of it is on every backend that has any; written once, and again where it could not be."""
    one, two = MemoryStore("one"), MemoryStore("two")
    store = ReplicatedStorage([backend(one), backend(two)], min_copies=1)
    assert store.replicate(place.file(b"before"), "other", stages=place.stages("zstd")).status == "complete"
    assert not copies_of_keys(one), "nothing is encrypted"
    two.hold(1).fail()
    assert store.replicate(place.file(b"1"), "x", stages=place.stages()).status == "degraded"
    assert (len(copies_of_keys(one)), len(copies_of_keys(two))) == (1, 0)
    two.gates.clear()
    for name in ("y", "z"):
        assert store.replicate(place.file(name.encode()), name, stages=place.stages()).status == "complete"
    assert copies_of_keys(one).keys() == copies_of_keys(two).keys()
    key = place.key_file.read_bytes()
    for copies in (copies_of_keys(one), copies_of_keys(two)):
        assert [pyrage.decrypt(data, [place.identity]) for data in copies.values()] == [key]
        assert key.strip() not in b"".join(copies.values())
    one.objects = {name: data for name, data in one.objects.items() if name not in copies_of_keys(one)}
    assert store.replicate(place.file(b"4"), "4", stages=place.stages()).status == "complete"
    assert not copies_of_keys(one), "no request is spent on what was written before"
    assert store.repair("", dry_run=True).done == store.repair("").done == {"refill": 1, "refill key": 1}
    assert copies_of_keys(one) == copies_of_keys(two)
    assert (store.repair("").done, store.verify("").status) == ({}, "complete")


def copies_of_keys(store: MemoryStore) -> dict[str, bytes]:
    return {name: data for name, data in store.objects.items() if name.startswith(".fsbackup/keys/")}


def test_another_host_with_the_same_key_recognises_what_is_stored(place: Staged) -> None:
    """As after a fail-over: the standby was given the key."""
    path, store = place.file(DATA), place.store()
    store.replicate(path, "x", stages=place.stages())
    (place.root / "standby").write_bytes(place.key_file.read_bytes())
    (place.root / "standby").chmod(0o600)
    again = store.replicate(path, "x", stages=place.stages(identity_key_file=place.root / "standby"))
    assert again.already


def test_buckets_have_the_stages_in_their_records(rig: ReplicaRig, place: Staged) -> None:
    """One object of one part and one of several, the same bytes everywhere; read back from the buckets."""
    store = rig.store()
    for name, data in (("small", b"x" * 1000), ("large", random.Random(3).randbytes(PART + MIB))):
        report = store.replicate(rig.file(data, name), name, stages=place.stages())
        assert (report.status, report.plain_size) == ("complete", len(data))
        stored = {raw.get(report.key) for raw in rig.raw_replicas.values()}
        assert len(stored) == 1
        for raw in rig.raw_replicas.values():
            record = raw.manifest(report.key)
            assert record is not None
            assert [each["stage"] for each in record["stages"]] == ["zstd", "age"]
        assert store.replicate(io.BytesIO(data), name, stages=place.stages()).already
        (rig.places.base / report.key).unlink()
        store.restore(report.key, rig.tmp / f"{name}.out", identity=place.root / "id.txt")
        assert (rig.tmp / f"{name}.out").read_bytes() == data


def test_a_copy_of_the_key_that_cannot_be_written_is_tried_again(
    place: Staged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The upload has succeeded all the same; the next one, of the same process too, writes it."""
    one = MemoryStore("one")
    store, stages = ReplicatedStorage([backend(one)]), place.stages()
    assert store.replicate(place.file(b"before"), "other").status == "complete"
    with monkeypatch.context() as broken:
        put = one.put

        async def refuse_keys(name: str, data: bytes, **options: Any) -> ObjectStat:
            if name.startswith(".fsbackup/keys/"):
                raise BackendError("full")
            return await put(name, data, **options)

        broken.setattr(one, "put", refuse_keys)
        assert store.replicate(place.file(b"1"), "x", stages=stages).status == "complete"
    assert "no copy of the identity key" in caplog.text
    assert not copies_of_keys(one)
    assert store.replicate(place.file(b"2"), "y", stages=stages).status == "complete"
    assert copies_of_keys(one)
