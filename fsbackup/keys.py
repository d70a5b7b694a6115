"""The rules for keys, and their reversible encoding to the names under which all backends store them.

A *key* is what users write (``backups/full/2025/10/db.sql.gz``); a *name* is what a backend stores. Nearly always
they are the same text, so that other tools find the files under their keys. Only what some backend, shell or URL
would misread is percent-encoded: ``% ? * [ ] \\``, a doubled colon, control characters, bytes that are not UTF-8,
the dot of ``.fsbackup``, and letters that Unicode normalisation would change (R2 stores names NFC-normalised, so
two spellings of one word would become one object).

A segment whose encoded form no disk can store is *shortened*: its beginning, ``%7E``, and its SHA-256. No key is
encoded to that, because a ``~`` is never encoded, and a ``%`` always is. Only a record says which key it is: until
it is read, the name stands for the key (`ShortenedName`).
"""

from __future__ import annotations

import codecs
import hashlib
import re
import unicodedata
from array import array
from functools import lru_cache
from urllib.parse import unquote_to_bytes

#: Longest name in bytes: S3 allows 1,024, and a manifest's name adds a prefix.
MAX_NAME_BYTES = 900
#: Longest segment of a name in bytes: Linux allows 255, and other tools' temp names need some.
MAX_SEGMENT_BYTES = 240
#: Longest key in bytes: the longest path of Linux.
MAX_KEY_BYTES = 4096

#: No name of a key's contains this word: it marks fsbackup's own objects and temp files.
RESERVED = ".fsbackup"
META_PREFIX = f"{RESERVED}/"
MANIFESTS = f"{META_PREFIX}manifests/"
TOMBSTONES = f"{META_PREFIX}tombstones/"
INTENTS = f"{META_PREFIX}pending/"
#: The end of the name of a write intent whose writer has ended, and of one whose writer gives way to others.
INTENT_DONE, INTENT_YIELDS = "-done", "-yields"
RECORDS = f"{META_PREFIX}records/"
#: Marks of repairs at work (see `fsbackup.engine.repairs`).
REPAIRS = f"{META_PREFIX}repairs/"
#: The name of a backend's marker (see `fsbackup.engine.marker`).
MARKER = f"{META_PREFIX}backend"
#: The suffix of the temp file of an unfinished local or generic write; listings skip it, repair deletes it.
TEMP_SUFFIX = f"{RESERVED}-tmp"

_UNSAFE = re.compile(r"[%?*\[\]\\\x01-\x1f\x7f-\x9f\ufffe\uffff\udc80-\udcff]|::|\.(?=fsbackup)")


#: Between the beginning of a shortened segment and the hash of the whole.
_SHORTENED = "%7E"
#: What is left of a segment for its beginning.
_BEGINNING = MAX_SEGMENT_BYTES - len(_SHORTENED) - 64
_SHORTENED_SEGMENT = re.compile(rf"[^/]{{1,{_BEGINNING}}}{_SHORTENED}[0-9a-f]{{64}}")


class ShortenedName(str):
    """A name with a shortened segment, in place of the key that only its record tells; encoded as it is."""

    __slots__ = ()


def check_key(key: str) -> str:
    """Return `key` unchanged.

    Raises
    ------
    ValueError
        When it is not a legal key, with the rule that it breaks: a key is relative, without empty, ``.`` or ``..``
        segments and zero bytes, not below ``.fsbackup``, and not too long.
    """
    if not isinstance(key, str):
        raise ValueError(f"a key must be a string, not {type(key).__name__}")
    if not key:
        raise ValueError("a key must not be empty")
    for problem in _problems(key):
        raise ValueError(f"key {key!r} cannot be used: {problem}")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` unchanged: leading segments of keys, with or without a trailing slash.

    Raises
    ------
    ValueError
        When no key can have this prefix, with the rule that it breaks.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def _problems(key: str) -> list[str]:
    segments = key.split("/")
    found = []
    if "" in segments:
        found.append("it starts or ends with '/' or has an empty segment")
    if "." in segments or ".." in segments:
        found.append("'.' and '..' are not allowed as segments")
    if "\0" in key:
        found.append("it has a zero byte, which no file's name can have")
    if segments[0] == RESERVED:
        found.append(f"{RESERVED!r} is reserved for fsbackup's own records")
    return found or _encoding_problems(key)


def _encoding_problems(key: str) -> list[str]:
    # A letter takes up to three bytes: nearly all keys of a listing need no closer look.
    if len(key) <= MAX_SEGMENT_BYTES // 3 and key.isascii():
        return []
    try:
        if key.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") != key:
            return ["it has surrogates that stand for valid UTF-8"]
    except UnicodeEncodeError:
        return ["it has surrogates that stand for no byte"]
    stored, whole = len(encode_key(key).encode()), len(key.encode("utf-8", "surrogateescape"))
    limits = ((stored, MAX_NAME_BYTES), (whole, MAX_KEY_BYTES))
    return [f"it takes {length:,} bytes, more than {most:,}" for length, most in limits if length > most]


@lru_cache(maxsize=1024, typed=True)  # a shortened name equals its text, and is another key
def encode_key(key: str) -> str:
    """Return the name under which backends store `key`; `decode_name` is the inverse unless it is shortened."""
    if isinstance(key, ShortenedName) or (len(key) <= MAX_SEGMENT_BYTES and _is_plain(key)):
        return str(key)
    return "/".join(_shorten(_encode_segment(segment)) for segment in key.split("/"))


def _is_plain(text: str) -> bool:
    return text.isascii() and not _UNSAFE.search(text)


def _shorten(segment: str) -> str:
    """Return an encoded segment as it is, or where it is too long its beginning and its hash."""
    data = segment.encode()
    if len(data) <= MAX_SEGMENT_BYTES:
        return segment
    beginning = data[:_BEGINNING].decode(errors="ignore")
    beginning = re.sub(r"%[0-9A-F]?$", "", beginning)
    letters = codecs.getincrementaldecoder("utf-8")("replace")
    letters.decode(unquote_to_bytes(beginning))
    divided = len(letters.getstate()[0])  # bytes of a letter whose last ones were cut off, each an escape
    return f"{beginning[: len(beginning) - 3 * divided]}{_SHORTENED}{hashlib.sha256(data).hexdigest()}"


def _encode_segment(segment: str) -> str:
    if _is_plain(segment):
        return segment
    segment = _UNSAFE.sub(lambda found: _percent(found[0]), segment)
    # Check the encoded text: a combining mark after a "]" may combine with the last digit of its "%5D".
    if unicodedata.is_normalized("NFC", segment):
        return segment
    return "".join(letter if letter.isascii() else _percent(letter) for letter in segment)


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def decode_name(name: str) -> str | None:
    """Return the key stored under `name`, None for a shortened name, and for one that is no key's."""
    if name.startswith(META_PREFIX):
        return None
    try:
        key = unquote_to_bytes(name).decode("utf-8", "surrogateescape") if "%" in name else name
        return check_key(key) if encode_key(key) == name else None
    except ValueError:
        return None


def listed_key(name: str) -> str | None:
    """Return the key of a name that is listed, a `ShortenedName` where only a record tells it.

    None for a name that is no key's (written by other software).
    """
    key = decode_name(name)
    if key is not None or _SHORTENED not in name or name.startswith(META_PREFIX):
        return key
    others = [each for each in name.split("/") if not _SHORTENED_SEGMENT.fullmatch(each)]
    return ShortenedName(name) if all(decode_name(f"below/{each}") is not None for each in others) else None


def manifest_name(key: str) -> str:
    """Return the name of the manifest of `key`.

    It has no suffix, so that manifests are listed in the order of their objects.
    """
    return f"{MANIFESTS}{encode_key(key)}"


def tombstone_name(key: str) -> str:
    """Return the name of the tombstone of `key`; as that of a manifest it has no suffix."""
    return f"{TOMBSTONES}{encode_key(key)}"


def intents_of(key: str) -> str:
    """Return how the names of all write intents of `key` begin.

    The key is in them by its hash: so all are in one directory, which need not be made for each write.
    """
    return f"{INTENTS}{hashlib.sha256(encode_key(key).encode()).hexdigest()[:32]}-"


def intent_name(key: str, intent_id: str) -> str:
    """Return the name of a write intent of `key`: the new manifest, stored before the data is replaced."""
    return f"{intents_of(key)}{intent_id}"


def record_name(key: str, record_id: str) -> str:
    """Return the name of a manifest of `key` that is an object of its own; the data object has only its id."""
    return f"{RECORDS}{encode_key(key)}/{record_id}"


def parse_record_name(name: str) -> tuple[str, str] | None:
    """Return the key (see `listed_key`) and the id in a `record_name`, None for another name."""
    path, _, record_id = name.removeprefix(RECORDS).rpartition("/")
    key = listed_key(path) if name.startswith(RECORDS) else None
    return None if key is None else (key, record_id)


def manifest_key(name: str) -> str | None:
    """Return the key (see `listed_key`) whose manifest is stored under `name`, None for any other name."""
    return listed_key(name.removeprefix(MANIFESTS)) if name.startswith(MANIFESTS) else None


def tombstone_key(name: str) -> str | None:
    """Return the key (see `listed_key`) whose tombstone is stored under `name`, None for any other name."""
    return listed_key(name.removeprefix(TOMBSTONES)) if name.startswith(TOMBSTONES) else None


def in_prefix(key: str, prefix: str) -> bool:
    """Tell whether `key` is `prefix` itself or lies below it, whole segments compared."""
    if isinstance(key, ShortenedName):  # each segment has a name of its own, so names compare as their keys do
        prefix = encode_key(prefix.removesuffix("/")) + ("/" if prefix.endswith("/") else "")
    return not prefix or key == prefix or key.startswith(prefix.removesuffix("/") + "/")


class FoundKeys:
    """Keys that were met, such as those that a run found at its source: nine bytes for each, for millions.

    Hashes of 64 bits stand for them. What is in here is kept or refused: two keys with one hash do no harm.
    """

    #: An array is searched from its beginning to its end, so there are many short ones.
    _BUCKETS = 4096

    def __init__(self) -> None:
        self._hashes: dict[int, array[int]] = {}

    def add(self, key: str) -> None:
        """Take note of a key."""
        bucket = hash(key) % self._BUCKETS
        if bucket not in self._hashes:
            self._hashes[bucket] = array("q")
        self._hashes[bucket].append(hash(key))

    def __contains__(self, key: object) -> bool:
        return hash(key) in self._hashes.get(hash(key) % self._BUCKETS, ())
