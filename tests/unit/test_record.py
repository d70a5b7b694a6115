"""Manifests and tombstones as bytes: nothing is lost, and damage is recognised."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsbackup.errors import IntegrityError
from fsbackup.record import Manifest, Origin, Record, Tombstone, dump, load, version_order

_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    ),
    max_size=20,
)
_HASH = st.text("0123456789abcdef", min_size=64, max_size=64)
_OPTIONAL = st.none() | _TEXT
_ORIGINS = st.builds(
    Origin,
    host=_TEXT,
    mtime=st.none() | st.floats(allow_nan=False),
    mode=st.none() | st.integers(0, 0o7777),
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
        blocks=blocks,
        generation=draw(st.integers(1, 1 << 60)),
        replaces=draw(st.none() | _HASH),
        created_at=draw(_TEXT),
        source=draw(_ORIGINS),
        part_size=draw(st.integers(1, 5 << 30)),
        fsbackup_version=draw(_TEXT),
        etag=draw(_OPTIONAL),
        version_id=draw(_OPTIONAL),
    )


TOMBSTONES = st.builds(Tombstone, key=_TEXT, generation=st.integers(1, 1 << 60), deleted_at=_TEXT)

EXAMPLE = Manifest(
    key="backups/caf\u00e9/db.sql.gz",
    size=1_048_577,
    sha256="ab" * 32,
    block_size=1_048_576,
    blocks=("cd" * 32, "ef" * 32),
    generation=3,
    replaces="01" * 32,
    created_at="2025-10-01T12:00:00+00:00",
    source=Origin("db1", 1_759_320_000.25),
    part_size=8_388_608,
    fsbackup_version="1.0",
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


def test_a_newer_format_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of a newer format is refused with the hint to upgrade, not as damaged."""
    monkeypatch.setattr("fsbackup.record.FORMAT", 99)
    data = dump(EXAMPLE)
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="newer format") as caught:
        load(data)
    assert caught.value.hint == "upgrade fsbackup"


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


def _is_refused(data: bytes) -> bool:
    try:
        load(data)
    except IntegrityError:
        return True
    return False
