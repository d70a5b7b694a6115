"""The rules for keys, and the encoding of keys to names and back."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fsbackup import keys

#: Any text that `os.fsdecode` can return, rich in what has to be encoded.
_LETTERS = st.one_of(
    st.sampled_from("abAF059%?*[]\\:.~ +&\n\x7f"),
    st.just(".fsbackup"),
    st.characters(exclude_categories=["Cs"], exclude_characters="/"),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]),
    st.sampled_from("\u0300\u0301\u0307\u0327\u0338\u212b\ufb01\u1e69"),
)
_SEGMENTS = st.lists(_LETTERS, min_size=1, max_size=12).map("".join)


@st.composite
def legal_keys(draw: st.DrawFn) -> str:
    """Return a key that `check_key` accepts."""
    key = "/".join(draw(st.lists(_SEGMENTS, min_size=1, max_size=4)))
    try:
        return keys.check_key(key)
    except ValueError:
        assume(False)
        raise


@given(legal_keys())
@example("]\u0307")
@example("\udcfa\u0301")
@example("%25")
@example("a::::b")
@example("/".join(["é" * 20] * 3))
@example("a\nb\x85/.fsbackup-tmp/x.fsbackup")
def test_round_trip(key: str) -> None:
    """`decode_name` is the inverse of `encode_key`."""
    assert keys.decode_name(keys.encode_key(key)) == key


@given(legal_keys())
@example("]\u0307")
@example("\udcfa\u0301")
@example("\u0338/\u0338")
def test_names_are_safe(key: str) -> None:
    """A name is UTF-8, has no special characters of globs and URLs, and does not change under NFC."""
    name = keys.encode_key(key)
    assert name.encode().decode() == name
    assert not re.search(r"[?*\[\]\\\x00-\x1f\x7f-\x9f]|::|\.fsbackup", name)
    for prefix in ("", keys.MANIFESTS, "some/prefix/"):
        assert unicodedata.normalize("NFC", prefix + name) == prefix + name
    assert name.count("/") == key.count("/")


@given(legal_keys())
def test_an_encoded_name_as_key_is_encoded_again(key: str) -> None:
    """A key that looks like an encoded name is a different key and has a different name."""
    name = keys.encode_key(f"*{key}")
    assert name.startswith("%2A")
    assert keys.encode_key(name).startswith("%252A")


@given(st.lists(st.one_of(_LETTERS, st.sampled_from("/%5Bd")), max_size=20).map("".join))
@example("100%\udcff")
@example("%5b")
@example("%41")
@example("caf\u0065\u0301")
@example("a/../b")
@example("%2E%2E/b")
@example("a%2Fb")
def test_decoding_is_canonical(name: str) -> None:
    """A name is either the only one of its key, or no name."""
    key = keys.decode_name(name)
    assert key is None or keys.encode_key(key) == name


@pytest.mark.parametrize("key", ["backups/full/2025/10/db.sql.gz", "a", "a b+c=d,e@f", "日本語/é", "...", "-x/~y"])
def test_usual_keys_are_their_own_names(key: str) -> None:
    """Other tools find the files under their keys."""
    assert keys.encode_key(key) == key


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "must not be empty"),
        ("/", "starts or ends with '/'"),
        ("/a", "starts or ends with '/'"),
        ("a/", "starts or ends with '/'"),
        ("a//b", "empty segment"),
        (".", "not allowed as segments"),
        ("a/./b", "not allowed as segments"),
        ("..", "not allowed as segments"),
        ("a/../b", "not allowed as segments"),
        ("a\0", "zero byte"),
        (".fsbackup", "reserved"),
        (".fsbackup/manifests/x", "reserved"),
        ("\ud800", "surrogates that stand for no byte"),
        ("\udcc3\udca9", "surrogates that stand for valid UTF-8"),
        ("/".join(["x" * 90] * 10), "more than 900"),
        ("/".join(["x" * 241] * 4), "more than 900"),
        ("x" * 4097, "more than 4,096"),
    ],
)
def test_refused_keys(key: str, problem: str) -> None:
    """A key that breaks a rule is a ValueError with that rule."""
    with pytest.raises(ValueError, match=re.escape(problem)):
        keys.check_key(key)
    assert keys.decode_name(key) is None


@pytest.mark.parametrize("key", [None, b"a", 7, ["a"]])
def test_keys_are_text(key: object) -> None:
    """Anything but a string is a ValueError."""
    with pytest.raises(ValueError, match="must be a string"):
        keys.check_key(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["x" * 240, "%" * 80, "é" * 120, "/".join(["x" * 99] * 9) + "y"])
def test_longest_keys(key: str) -> None:
    """The longest key and the names of its records fit the limits of disks and S3."""
    keys.check_key(key)
    for name in (keys.manifest_name(key), keys.tombstone_name(key), keys.intent_name(key, "0" * 32)):
        assert len(name.encode()) <= 1024
        assert max(len(segment.encode()) for segment in name.split("/")) <= 255


@settings(deadline=None, max_examples=50)
@given(
    legal_keys(), st.integers(236, 300) | st.just(1000), st.integers(0, 240), st.sampled_from("a%é日~\u0301\udcff")
)
@example("é", 1000, 1, "日")
@example("a/.fsbackup", 1000, 0, "a")
def test_a_long_segment_is_shortened(key: str, length: int, at: int, letter: str) -> None:
    """Only where it must be; to a name that fits, is no other key's, and begins readably; below it all goes on."""
    segment = "a" * at + letter * length
    for long in (f"{key}/{segment}", f"{segment}/{key}"):
        name = keys.encode_key(long)
        whole = keys.encode_key(letter * 2 + "/" + key).split("/")  # as a letter is encoded beside another one
        assert name.count("/") == long.count("/")
        assert max(len(each.encode()) for each in name.split("/")) <= 240
        assert unicodedata.normalize("NFC", name) == name
        listed = keys.listed_key(name)
        shortened = isinstance(listed, keys.ShortenedName)
        assert shortened == (at + length * len(whole[0].encode()) // 2 > 240)
        assert listed == (name if shortened else long)
        assert keys.encode_key(listed or "") == name
        if shortened:
            assert keys.decode_name(name) is None
            assert keys.encode_key(str(name)) != name
            assert keys.in_prefix(listed or "", long.partition("/")[0])
            assert not keys.in_prefix(listed or "", "other/")
            assert keys.manifest_key(keys.manifest_name(long)) == listed
            assert keys.parse_record_name(keys.record_name(long, "1")) == (listed, "1")


@pytest.mark.parametrize("letter", ["é", "日", "\U0001f4e6", "e\u0301", "\udcff", "%"])
def test_no_letter_is_divided(letter: str) -> None:
    """The beginning is cut between two letters, also where they are encoded."""
    for at in range(8):
        beginning, _, digest = keys.encode_key("a" * at + letter * 500).rpartition("%7E")
        decoded = unquote_to_bytes(beginning).decode("utf-8", "surrogateescape")
        assert decoded == ("a" * at + letter * 500)[: len(decoded)]
        assert len(decoded) > 10
        assert len(digest) == 64


def test_shortened_segments_differ_by_their_ends() -> None:
    """And a name is the same in every process."""
    names = {keys.encode_key("x" * 400 + end) for end in ("", "a", "b", "%7E")}
    assert len(names) == 4
    assert keys.encode_key("x" * 400) == "x" * 173 + "%7E" + hashlib.sha256(b"x" * 400).hexdigest()


@pytest.mark.parametrize("name", ["%7E" + "0" * 64, "x%7E" + "0" * 63, "x%7E" + "A" * 64, "%41/x%7E" + "0" * 64])
def test_what_is_no_shortened_name(name: str) -> None:
    """Another program's name that looks alike is no key's."""
    assert keys.listed_key(name) is None


@given(legal_keys())
def test_names_of_records(key: str) -> None:
    """The name of a manifest or a tombstone has the key, and is not the name of an object."""
    for name, key_of in (
        (keys.manifest_name(key), keys.manifest_key),
        (keys.tombstone_name(key), keys.tombstone_key),
    ):
        assert key_of(name) == key
        assert keys.decode_name(name) is None
    assert keys.manifest_key(keys.tombstone_name(key)) is None
    assert keys.tombstone_key(keys.manifest_name(key)) is None
    assert keys.manifest_key(keys.intent_name(key, "0" * 32)) is None
    assert keys.manifest_key(keys.encode_key(key)) is None


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b", "a/b/"])
def test_legal_prefixes(prefix: str) -> None:
    """A prefix is a key, with or without a trailing slash, or empty."""
    assert keys.check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "//", "a//", "../a", "/a", ".fsbackup/"])
def test_refused_prefixes(prefix: str) -> None:
    """A prefix that no key can have is a ValueError."""
    with pytest.raises(ValueError, match="key"):
        keys.check_prefix(prefix)


@pytest.mark.parametrize(
    ("key", "prefix", "inside"),
    [
        ("a/b", "", True),
        ("a/b", "a", True),
        ("a/b", "a/", True),
        ("a/b", "a/b", True),
        ("a/bc", "a/b", False),
        ("ab", "a", False),
        ("a", "a/", False),
    ],
)
def test_in_prefix(key: str, prefix: str, inside: bool) -> None:
    """A key is in a prefix by whole segments."""
    assert keys.in_prefix(key, prefix) is inside
