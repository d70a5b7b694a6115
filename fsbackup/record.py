"""Records as JSON: the manifest of an object's version, and the tombstone of a deleted object. No I/O.

The manifest of an object of several parts has its place while the object is uploaded: until it is written there, a
note has the UploadId (`upload_note`), by which the upload is known to be ours. The manifest goes on to name it.

`FORMAT.md` is the contract. A record has a checksum over itself, and every field is checked when it is read: what
is not valid is damaged, and never becomes a `Manifest`. Fields that this version does not know are kept and
written again with the others. A record of a higher format is not damaged: a newer version of fsbackup wrote it,
and `NewerFormatError` says so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

from fsbackup import __version__
from fsbackup.errors import IntegrityError, NewerFormatError

FORMAT = 1
#: The hash of the blocks of an object of several: it takes a quarter of SHA-256's time.
BLAKE3 = "blake3"

#: Largest time and generation, in nanoseconds and milliseconds: far more than any clock shows.
_MAX_INTEGER = 1 << 63
#: Largest object, in bytes: far more than any store holds.
_MAX_SIZE = 1 << 60
_HEX = re.compile(r"[0-9a-f]{64}")
_WRITE_ID = re.compile(r"[0-9a-f]{32}")

T = TypeVar("T", bound="Origin | Manifest | Tombstone")


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of an object.

    Parameters
    ----------
    host
        The machine that stored it.
    mtime_ns, mode
        The file's modification time (nanoseconds since the epoch) and permission bits; None for a stream.
    directories
        The permission bits of the directories between a job's source and the file, outermost first.
    uid, gid
        The numbers of the file's owner and group; None for a stream.
    unknown
        Fields that a later version added.
    """

    host: str
    mtime_ns: int | None = None
    mode: int | None = None
    directories: Sequence[int] | None = None
    uid: int | None = None
    gid: int | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one version of one object.

    Parameters
    ----------
    key
        The object's key.
    size
        Bytes.
    sha256
        Of the whole object, lower-case hex.
    block_size, block_hash, blocks
        Bytes per block (the last may be shorter), ``"blake3"`` or None for SHA-256, and this hash of each block,
        lower-case hex.
    generation
        Orders the versions of this key: the writer's clock in milliseconds since the epoch, or one more than the
        highest generation that the writer knew, whichever is higher.
    replaces
        SHA-256 of the version before, None for the first.
    created_at
        When the manifest was made, ISO 8601 in UTC.
    source
        The file or stream that was backed up.
    part_size
        Bytes per multipart part, the same on every replica.
    fsbackup_version
        The version of fsbackup that wrote it.
    write_id
        32 random hex digits, the same on every replica: it tells two writes of the same bytes apart.
    etag, version_id
        Those of the data object on this manifest's own replica, where the manifest lies beside the data; None
        where the service has none, and where the manifest lies inside the data object.
    content_etag
        The ETag that S3 services make of the content in parts of `part_size` (`stores.base.content_etag`); None
        where no MD5 was computed.
    upload_id
        That of the multipart upload which makes the data object, where the manifest lies behind an id.
    series
        What the object is a version of, None where nothing names its series.
    stages
        What was done to the source's bytes (compression, encryption), in order; None for nothing.
    seal
        Reserved for a signature over the record.
    unknown
        Fields that a later version added.
    """

    key: str
    size: int
    sha256: str
    block_size: int
    blocks: Sequence[str] = field(hash=False)
    generation: int
    replaces: str | None
    created_at: str
    source: Origin = field(hash=False)
    part_size: int
    fsbackup_version: str
    write_id: str
    block_hash: str | None = None
    etag: str | None = None
    version_id: str | None = None
    upload_id: str | None = None
    content_etag: str | None = None
    series: str | None = None
    stages: Sequence[Mapping[str, Any]] | None = field(default=None, hash=False)
    seal: str | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def created_timestamp(self) -> float:
        """`created_at` in epoch seconds."""
        return _timestamp(self.created_at)

    def for_replica(self, etag: str | None, version_id: str | None, upload_id: str | None = None) -> Manifest:
        """Return this manifest as the replica with this ETag, version ID and UploadId stores it."""
        own = etag, version_id, upload_id
        if own == (self.etag, self.version_id, self.upload_id):
            return self
        return replace(self, etag=etag, version_id=version_id, upload_id=upload_id)


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A delete that not every replica has confirmed: the generation deleted, and when (ISO 8601 in UTC)."""

    key: str
    generation: int
    deleted_at: str
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deleted_timestamp(self) -> float:
        """`deleted_at` in epoch seconds."""
        return _timestamp(self.deleted_at)


@lru_cache(maxsize=256)  # the records of one version have the same, and are compared with each other
def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


Record = Manifest | Tombstone


def version_order(record: Record) -> tuple[int, bool, float, str]:
    """Return the sort key of versions: by generation, a tombstone after the manifest of the version it deletes.

    Of two contents under one generation the one made later comes last, then the one with the larger SHA-256.
    """
    if isinstance(record, Tombstone):
        return record.generation, True, 0.0, ""
    return record.generation, False, record.created_timestamp, record.sha256


def dump(record: Record) -> bytes:
    """Return `record` as the compact ASCII JSON that a backend stores.

    Without spaces and question marks, so that it can be the value of an HTTP header as it is: signing collapses
    spaces, and R2 decodes ``=?``.
    """
    return _sealed(type(record).__name__.lower(), _plain(record))


def upload_note(upload_id: str, host: str, started_at: str) -> bytes:
    """Return what is stored in the place of a manifest while its object of several parts is uploaded."""
    return _sealed("upload", {"upload_id": upload_id, "host": host, "started_at": started_at})


def upload_of(data: bytes) -> tuple[str, str] | None:
    """Return UploadId and host of a note or a manifest, None without them, and for a damaged or a newer record."""
    try:
        fields = json.loads(data)
        is_valid = fields.pop("checksum") == _checksum(fields) and fields["format"] == FORMAT
        upload_id, host = fields["upload_id"], fields.get("host") or fields["source"]["host"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (upload_id, host) if is_valid and isinstance(upload_id, str) and isinstance(host, str) else None


def _sealed(kind: str, plain: Mapping[str, Any]) -> bytes:
    text = _canonical({"format": FORMAT, "kind": kind, **plain})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    sealed = f'{text[:-1]},"checksum":"{checksum}"}}'
    return sealed.replace(" ", r"\u0020").replace("?", r"\u003f").encode()


def _plain(record: Record | Origin) -> dict[str, Any]:
    """Return the fields that have a value, by name, as JSON types."""
    names, values = _FIELDS[type(record)]
    pairs = zip(names, values(record), strict=True)
    fields = {**record.unknown, **{name: value for name, value in pairs if value is not None}}
    if isinstance(record, Manifest):
        digests = bytes.fromhex("".join(record.blocks))
        fields |= {"source": _plain(record.source), "blocks": base64.b64encode(digests).decode()}
    return fields


def load(data: bytes) -> Record:
    """Return the record in `data`; of several replicas one after another it is made once, while it is small.

    Raises
    ------
    IntegrityError, NewerFormatError
        As `_load`.
    """
    return _load_small(data) if len(data) <= _SMALL else _load(data)


def _load(data: bytes) -> Record:
    """Return the record in `data`.

    Raises
    ------
    IntegrityError
        When it is damaged.
    NewerFormatError
        When it has a higher format than this version reads. Every later format keeps `format`, `fsbackup_version`
        and the way in which `checksum` is made, so that such a record is told from a damaged one.
    """
    try:
        fields = json.loads(data)
        checksum = fields.pop("checksum")
        if checksum != _checksum(fields):
            raise IntegrityError("the manifest is damaged: its checksum does not match")
        written_as = fields.pop("format")
        if type(written_as) is int and written_as > FORMAT:
            raise _newer(written_as, fields.get("fsbackup_version"))
        if written_as != FORMAT:
            raise IntegrityError("the manifest is damaged: there is no such format")
        return _build(fields.pop("kind"), fields)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise IntegrityError(f"the manifest cannot be read: {type(error).__name__}") from error


#: All replicas of a small object have the same bytes; bytes of the largest record that is kept for the next one.
_SMALL = 4096
_load_small = lru_cache(maxsize=256)(_load)


def _newer(written_as: int, writer: Any) -> NewerFormatError:
    by = f"fsbackup {writer}" if isinstance(writer, str) else "a newer fsbackup"
    return NewerFormatError(
        f"its record was written by {by} in format {written_as}; this is fsbackup {__version__}, which knows "
        f"format {FORMAT}",
        hint="upgrade this one; until then nothing of this key is changed",
    )


def _build(kind: str, fields: dict[str, Any]) -> Record:
    if kind == "tombstone":
        return _checked(Tombstone, fields, _TOMBSTONE_RULES)
    if kind == "upload":
        raise IntegrityError("the manifest has not been written yet")
    fields["source"] = _checked(Origin, fields["source"], _ORIGIN_RULES)
    fields["blocks"] = _hashes(fields["blocks"])
    manifest = _checked(Manifest, fields, _MANIFEST_RULES)
    if len(manifest.blocks) != -(-manifest.size // manifest.block_size):
        raise IntegrityError("the manifest is damaged: its block hashes do not fit its size")
    return manifest


def _checked(kind: type[T], fields: dict[str, Any], rules: Mapping[str, Callable[[Any], bool]]) -> T:
    """Return a record of `kind` whose fields all have a valid value."""
    known, wrong = {}, []
    for name, is_valid in rules.items():
        value = fields.get(name)
        if value is not None:
            known[name] = value
            if not is_valid(value):
                wrong.append(name)
    if wrong:
        raise IntegrityError(f"the manifest is damaged: {', '.join(wrong)} cannot be what it says")
    unknown = {name: fields[name] for name in fields.keys() - rules.keys()}
    optional = {"replaces": None} if kind is Manifest else {}
    return kind(**{**optional, **known}, unknown=unknown)


def _hashes(text: str) -> tuple[str, ...]:
    try:
        digests = base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        raise IntegrityError("the manifest is damaged: its block hashes cannot be read") from None
    if len(digests) % 64:
        raise IntegrityError("the manifest is damaged: a block hash is cut off")
    return tuple(digests[at : at + 64] for at in range(0, len(digests), 64))


def _is_integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_write_id(value: Any) -> bool:
    return isinstance(value, str) and _WRITE_ID.fullmatch(value) is not None


def _is_time(value: Any) -> bool:
    """Tell whether a text is a date with its zone, which every clock that wrote a record has."""
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _is_list_of(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(rule(each) for each in value)


#: The highest number stands for "unchanged" where an owner is set.
_IS_OWNER = _is_integer(0, (1 << 32) - 2)
#: All that `os.stat` reports, the kind of file too; only the permission bits are ever restored.
_IS_MODE = _is_integer(0, 0o177777)

_ORIGIN_RULES: Mapping[str, Callable[[Any], bool]] = {
    "host": _is_text,
    "mtime_ns": _is_integer(-_MAX_INTEGER, _MAX_INTEGER),
    "mode": _IS_MODE,
    "directories": _is_list_of(_IS_MODE),
    "uid": _IS_OWNER,
    "gid": _IS_OWNER,
}
_MANIFEST_RULES: Mapping[str, Callable[[Any], bool]] = {
    "key": _is_text,
    "size": _is_integer(0, _MAX_SIZE),
    "sha256": _is_hash,
    "block_size": _is_integer(1, _MAX_SIZE),
    "block_hash": lambda value: value == BLAKE3,
    "blocks": lambda value: isinstance(value, tuple),
    "generation": _is_integer(0, _MAX_INTEGER),
    "replaces": _is_hash,
    "created_at": _is_time,
    "source": lambda value: isinstance(value, Origin),
    "part_size": _is_integer(1, _MAX_SIZE),
    "fsbackup_version": _is_text,
    "write_id": _is_write_id,
    "etag": _is_text,
    "version_id": _is_text,
    "upload_id": _is_text,
    "content_etag": _is_text,
    "series": _is_text,
    "stages": _is_list_of(lambda value: isinstance(value, dict)),
    "seal": _is_text,
}
_TOMBSTONE_RULES: Mapping[str, Callable[[Any], bool]] = {
    "key": _is_text,
    "generation": _is_integer(0, _MAX_INTEGER),
    "deleted_at": _is_time,
}


def _known_fields(kind: type[Any]) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(each for each in kind.__slots__ if each != "unknown")
    return names, attrgetter(*names)


#: The names of the fields of each kind, and what returns their values.
_FIELDS = {kind: _known_fields(kind) for kind in (Origin, Manifest, Tombstone)}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _canonical(fields: Mapping[str, Any]) -> str:
    return _ENCODER.encode(fields)


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()
