"""Manifests and tombstones as bytes: nothing is lost, and damage is recognised."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields as fields_of
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsbackup.errors import IntegrityError, NewerFormatError
from fsbackup.record import (
    _MANIFEST_RULES,
    _ORIGIN_RULES,
    _TOMBSTONE_RULES,
    Manifest,
    Origin,
    Record,
    Tombstone,
    dump,
    load,
    upload_note,
    upload_of,
    version_order,
)

_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    ),
    max_size=20,
)
_HASH = st.text("0123456789abcdef", min_size=64, max_size=64)
_OPTIONAL = st.none() | _TEXT
_TIMES = st.datetimes(timezones=st.just(UTC)).map(lambda when: when.isoformat(timespec="seconds"))
_ORIGINS = st.builds(
    Origin,
    host=_TEXT,
    mtime_ns=st.none() | st.integers(-(1 << 63), 1 << 63),
    mode=st.none() | st.integers(0, 0o7777),
    directories=st.none() | st.lists(st.integers(0, 0o7777), max_size=3),
    uid=st.none() | st.integers(0, (1 << 32) - 2),
    gid=st.none() | st.integers(0, (1 << 32) - 2),
    unknown=st.dictionaries(st.just("x-later"), st.integers(), max_size=1),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Return any manifest, with as many blocks as its size has."""
    block_size, blocks = draw(st.integers(1, 1 << 40)), tuple(draw(st.lists(_HASH, max_size=4)))
    last = draw(st.integers(1, block_size)) if blocks else 0
    return Manifest(
        key=draw(_TEXT),
        size=max(len(blocks) - 1, 0) * block_size + last,
        sha256=draw(_HASH),
        block_size=block_size,
        block_hash=draw(st.none() | st.just("blake3")),
        blocks=blocks,
        generation=draw(st.integers(1, 1 << 60)),
        replaces=draw(st.none() | _HASH),
        created_at=draw(_TIMES),
        source=draw(_ORIGINS),
        part_size=draw(st.integers(1, 5 << 30)),
        fsbackup_version=draw(_TEXT),
        write_id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        etag=draw(_OPTIONAL),
        version_id=draw(_OPTIONAL),
        upload_id=draw(_OPTIONAL),
        series=draw(_OPTIONAL),
        stages=draw(st.none() | st.lists(st.dictionaries(_TEXT, st.integers()), max_size=2)),
        seal=draw(_OPTIONAL),
        unknown=draw(st.dictionaries(st.just("x-later"), st.none() | _TEXT, max_size=1)),
    )


TOMBSTONES = st.builds(Tombstone, key=_TEXT, generation=st.integers(1, 1 << 60), deleted_at=_TIMES)

EXAMPLE = Manifest(
    key="backups/caf\u00e9/db.sql.gz",
    size=1_048_577,
    sha256="ab" * 32,
    block_size=1_048_576,
    blocks=("cd" * 32, "ef" * 32),
    generation=3,
    replaces="01" * 32,
    created_at="2025-10-01T12:00:00+00:00",
    source=Origin("db1", 1_759_320_000_250_000_000),
    part_size=8_388_608,
    fsbackup_version="1.0",
    write_id="0123456789abcdef" * 2,
    etag="abc-2",
)


@given(manifests() | TOMBSTONES)
def test_round_trip(record: Record) -> None:
    """`load` returns what `dump` was given."""
    assert load(dump(record)) == record


@given(manifests())
def test_dumped_bytes_are_plain_json(record: Manifest) -> None:
    """Any JSON reader finds size and checksum, in ASCII."""
    fields = json.loads(dump(record).decode("ascii"))
    assert (fields["size"], fields["sha256"], fields["key"]) == (record.size, record.sha256, record.key)


def test_damage_of_any_byte_is_found() -> None:
    """Any byte changed, missing or doubled is an `IntegrityError`, or changes no field."""
    data = dump(EXAMPLE)
    for at in range(len(data)):
        for damaged in (
            data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :],
            data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :],
            data[:at] + b"\0" + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
        ):
            assert _is_refused(damaged) or load(damaged) == EXAMPLE


def test_truncation_is_found() -> None:
    """A part of a manifest is an `IntegrityError`, however long."""
    data = dump(EXAMPLE)
    assert all(_is_refused(data[:length]) for length in range(len(data)))


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.integers() | _TEXT, st.lists).map(lambda v: json.dumps(v).encode())
)
def test_other_bytes_are_refused(data: bytes) -> None:
    """Other bytes are an `IntegrityError` and nothing else."""
    assert _is_refused(data)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"7", b'"x"', b"[" * 100_000, b'{"checksum": 1}', b"\xff\xfe"]
)
def test_bytes_that_break_parsers_are_refused(data: bytes) -> None:
    """Bytes that make JSON parsers fail are an `IntegrityError` too."""
    assert _is_refused(data)


@pytest.mark.parametrize(
    "change", [{"size": 0}, {"sha256": "00" * 32}, {"generation": 9}, {"blocks": []}, {"extra": 1}]
)
def test_a_changed_field_is_found(change: dict[str, object]) -> None:
    """A field edited by hand no longer matches the checksum."""
    fields = {**json.loads(dump(EXAMPLE)), **change}
    with pytest.raises(IntegrityError, match="damaged"):
        load(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"size": 5 << 20}, {"block_size": 1}, {"block_size": 0}, {"block_size": -1}, {"blocks": ()}],
)
def test_hashes_for_another_size_are_refused(change: dict[str, Any]) -> None:
    """A record whose number of blocks does not fit its size is refused even when its checksum is right."""
    assert _is_refused(dump(replace(EXAMPLE, **change)))


@pytest.mark.parametrize("name", ["md5", "sha256", "", 3, ["blake3"]])
def test_blocks_of_an_unknown_hash_are_refused(name: Any) -> None:
    """Nothing could be proven by them."""
    assert _is_refused(sealed({**json.loads(dump(EXAMPLE)), "block_hash": name}))


def test_a_newer_format_says_so() -> None:
    """A record of a higher format names its writer; whatever else it says, it is not damaged."""
    for fields in ({"fsbackup_version": "7.8.9", "kind": "new"}, json.loads(dump(EXAMPLE))):
        fields = {**fields, "format": 2, "fsbackup_version": "7.8.9"}
        with pytest.raises(NewerFormatError, match=r"written by fsbackup 7\.8\.9 in format 2") as caught:
            load(sealed(fields))
        assert "upgrade this one" in str(caught.value.hint)


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", None, [2]])
def test_what_is_no_format_is_damaged(number: Any) -> None:
    """Only a higher number is a newer format; a higher one without its checksum is damaged, too."""
    assert _is_refused(sealed({**json.loads(dump(EXAMPLE)), "format": number}))
    assert _is_refused(dump(EXAMPLE).replace(b'"format":1', b'"format":2'))


_SCALARS = st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | _TEXT
_ANYTHING = st.recursive(_SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(_TEXT, of, max_size=3))


@given(manifests() | TOMBSTONES, st.data())
def test_no_value_of_a_field_gets_past_the_checks(record: Record, data: st.DataObject) -> None:
    """A rightly sealed record with any value in any field is refused, or has a value of the field's type."""
    fields = json.loads(dump(record))
    where = data.draw(st.sampled_from([fields, *([fields["source"]] if "source" in fields else [])]))
    where[data.draw(st.sampled_from([name for name in where if name != "checksum"]))] = data.draw(_ANYTHING)
    try:
        loaded = load(sealed(fields))
    except IntegrityError:
        return
    except NewerFormatError:
        assert fields["format"] > 1
        return
    assert load(dump(loaded)) == loaded
    assert loaded.generation >= 0
    if isinstance(loaded, Manifest):
        assert loaded.created_timestamp < 1e12
        assert len(loaded.blocks) == -(-loaded.size // loaded.block_size)
        assert all(bytes.fromhex(each) for each in (loaded.sha256, loaded.write_id, *loaded.blocks))
        assert loaded.source.mode is None or 0 <= loaded.source.mode <= 0o177777
        assert loaded.source.mtime_ns is None or abs(loaded.source.mtime_ns) <= 1 << 63


@given(manifests())
def test_a_record_is_a_header_value(record: Manifest) -> None:
    """What signing or R2 would change in the value of an HTTP header is not in it: spaces, and ``=?``."""
    assert not set(" ?\n\r\t") & set(dump(record).decode("ascii"))


def test_every_field_has_a_rule() -> None:
    """Each field of each record has a check; `unknown` has what is in no field."""
    for kind, rules in ((Manifest, _MANIFEST_RULES), (Origin, _ORIGIN_RULES), (Tombstone, _TOMBSTONE_RULES)):
        assert {each.name for each in fields_of(kind)} == {*rules, "unknown"}


@given(manifests(), st.integers(1, 1 << 60))
def test_order(record: Manifest, generation: int) -> None:
    """Versions are ordered by generation, a tombstone after the manifest of the version it deletes."""
    tombstone = Tombstone(record.key, generation, "2025-10-01T12:00:00+00:00")
    assert (version_order(tombstone) > version_order(record)) is (generation >= record.generation)


def test_for_replica() -> None:
    """The manifests of two replicas differ in ETag and version ID only."""
    stored = EXAMPLE.for_replica("other", "v1")
    assert (stored.etag, stored.version_id) == ("other", "v1")
    assert stored.for_replica(EXAMPLE.etag, EXAMPLE.version_id) == EXAMPLE


def sealed(fields: dict[str, Any]) -> bytes:
    """Return a record as bytes, with the checksum that it must have."""
    rest = {name: value for name, value in fields.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return json.dumps({**rest, "checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def _is_refused(data: bytes) -> bool:
    try:
        load(data)
    except IntegrityError:
        return True
    return False


def test_a_note_and_the_manifest_over_it_name_the_upload() -> None:
    """A reader takes the note for no manifest; what is damaged or newer names no upload."""
    note = upload_note("id/+=", "host", "2025-10-05T12:00:00+00:00")
    manifest = dump(EXAMPLE.for_replica(None, None, "id/+="))
    assert upload_of(note) == ("id/+=", "host")
    assert upload_of(manifest) == ("id/+=", EXAMPLE.source.host)
    with pytest.raises(IntegrityError):
        load(note)
    newer = {**json.loads(note), "format": 2}
    del newer["checksum"]
    text = json.dumps(newer, sort_keys=True, separators=(",", ":"))
    newer["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    for other in (
        dump(EXAMPLE),
        note[:-2],
        note.replace(b"host", b"hast"),
        b"[]",
        b"",
        json.dumps(newer).encode(),
    ):
        assert upload_of(other) is None
