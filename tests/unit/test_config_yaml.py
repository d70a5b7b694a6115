"""What YAML itself would swallow, and where every value stands."""

from __future__ import annotations

import pytest

from fsbackup.config import InvalidConfigError, document, parse_config
from fsbackup.config.document import MAX_CHARACTERS, read_document

DISK = "version: 1\nbackends: {disk: {type: local, path: /b}}\n"


def lines_of(text: str) -> list[str]:
    """Return the mistakes in `text`, one line each."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c.yaml", environ={})
    return str(caught.value).splitlines()


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n"])
def test_an_empty_file_is_an_error(text: str) -> None:
    """A file without values is refused as empty."""
    assert lines_of(text) == ["c.yaml:1: is empty"]


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "5\n"])
def test_the_top_must_be_a_mapping(text: str) -> None:
    """A list, a text or a number at the top is refused."""
    assert lines_of(text) == ["c.yaml:1: must be a mapping of settings"]


def test_a_syntax_error_has_its_line() -> None:
    """Broken YAML is one mistake, at the line of the break."""
    assert lines_of("version: 1\nbackends: {a: [}\n")[0].startswith("c.yaml:2: is not valid YAML: ")


def test_two_documents_are_refused() -> None:
    """A second document would be ignored in silence, so it is an error."""
    assert lines_of("version: 1\n---\nversion: 1\n") == ["c.yaml:2: is not valid YAML: but found another document"]


def test_a_control_character_has_its_line() -> None:
    """A character that YAML forbids is reported where it is."""
    assert lines_of("version: 1\n# ok\na: \x07\n") == ["c.yaml:3: has a character that YAML does not allow"]


def test_a_duplicate_key_is_an_error() -> None:
    """A key that is set twice is named with both its lines, at any depth."""
    text = """version: 1
backends:
  disk: {type: local, path: /b}
  other: {type: local, path: /c, path: /d}
  disk: {type: r2}
"""
    assert lines_of(text) == [
        "c.yaml:4: backends.other.path: is set twice, first in line 4 (keep one)",
        "c.yaml:5: backends.disk: is set twice, first in line 3 (keep one)",
    ]


def test_a_key_that_is_no_text_is_an_error() -> None:
    """Numbers, null and lists as keys are refused."""
    assert lines_of(DISK + "1: a\n~: b\n? [x]\n: c\n") == [
        "c.yaml:3: has a key '1' that is not text (put it in quotes)",
        "c.yaml:4: has a key '~' that is not text (put it in quotes)",
        "c.yaml:5: has a key that is not text (put it in quotes)",
    ]


def test_anchors_aliases_and_merges_work() -> None:
    """A mapping can be named, used again, and merged; its own settings win over merged ones."""
    text = """
version: 1
backends:
  a: &disk {type: local, path: /a, timeout: 5s, create: false}
  b: {<<: *disk, path: /b}
  c:
    <<: [{path: /c}, *disk]
    timeout: 7s
"""
    backends = parse_config(text, environ={}).show()["backends"]
    assert [(one["path"], one["timeout"], one["create"]) for one in backends.values()] == [
        ("/a", "5s", False),
        ("/b", "5s", False),
        ("/c", "7s", False),
    ]


def test_a_merge_of_something_else_is_an_error() -> None:
    """Only mappings can be merged."""
    assert lines_of("version: 1\nbackends:\n  a:\n    type: local\n    <<: 5\n") == [
        "c.yaml:5: backends.a.<<: must be an alias of a mapping"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a {k1: 1, k2: 2}\n"
        + "".join(
            f"{n}: &{n} {{<<: [{', '.join([f'*{p}'] * 10)}]}}\n"
            for p, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: &a [*a]\n",
        "a: &a {<<: *a}\n",
        "a: " + "[" * 5000,
        "a: " + "{a: " * 100 + "1" + "}" * 100,
        "a: 1\n#" + "#" * MAX_CHARACTERS,
    ],
    ids=["aliases", "merges", "itself", "merges-itself", "deep", "deep-mapping", "long"],
)
def test_a_bomb_is_refused(text: str) -> None:
    """Aliases of aliases, endless nesting and very long files end in an error at once."""
    (found,) = read_document(text).violations
    assert found.problem.startswith("is too large or too deeply nested")


@pytest.mark.parametrize("tag", ["!!python/name:os.system", "!!binary", "!!set", "!own", "!!int"])
def test_other_tags_are_refused(tag: str) -> None:
    """Only plain text, numbers, booleans, null, lists and mappings are read."""
    found = lines_of(f"version: 1\nbackends:\n  a:\n    type: local\n    path: {tag} x\n")
    assert len(found) == 1
    assert found[0].startswith("c.yaml:5: backends.a.path: cannot be read as ")


def test_words_and_leading_zeros_stay_text() -> None:
    """`on`, `no`, dates, 1:30 and 0051e2 are text, as in YAML 1.2."""
    data = read_document("a: [on, no, 2025-10-21, 1:30, 0051, 1e5, 0x1F]\non: 1").data
    assert data == {"a": ["on", "no", "2025-10-21", "1:30", "0051", "1e5", "0x1F"], "on": 1}


def test_plain_values_are_read() -> None:
    """true, numbers, fractions and null are what they look like; quotes make them text."""
    assert read_document("a: [true, FALSE, -7, 0.5, ~, null, '1']").data == {
        "a": [True, False, -7, 0.5, None, None, "1"]
    }


def test_every_value_has_its_line() -> None:
    """A mapping's value stands at its key, a list's at itself, and a missing one at what is around it."""
    document = read_document("a:\n  b:\n    - x\n    - y\n  c: {d: 1}\n")
    expected = {(): 1, ("a",): 1, ("a", "b"): 2, ("a", "b", 1): 4, ("a", "c", "d"): 5, ("a", "z"): 1}
    assert {loc: document.line(loc) for loc in expected} == expected


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nid: 0051e2\nnumber: -12\nshare: 1.5\nswitch: on\nyes: true\nnothing: ~\n",
        "a: &a {b: 1, c: [x, 'y', \"z\"]}\nd:\n  <<: *a\n  b: 2\n",
        "text: |\n  two\n  lines\nfolded: >-\n  one\n  line\nletters: \U0001f600 \u00fc\n",
        "a: 1\nb: {c: 1, c: 2}\n? [x]\n: y\n1: z\n",
        "a: !!python/x y\nb: <<\n",
        "a: [1, 2\n",
        "a:\n\t- b\n",
        "k: @x\n",
        "a: 'open\n",
        "a: \x01\n",
        "a: 1\n---\nb: 2\n",
        "a: &x [*x]\n",
        "[" * 1000,
        "{a: " * 1000,
    ],
    ids=range(14),
)
def test_without_the_library_in_c_all_is_read_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, lines, and what is said of a mistake."""
    fast = read_document(text)
    monkeypatch.setattr(document, "_FastLoader", document._Loader)
    assert fast == read_document(text)
