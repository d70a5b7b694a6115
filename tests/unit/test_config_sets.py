"""The rules of replication sets, each with the exact place and words of its error."""

from __future__ import annotations

import pytest

from fsbackup.config import InvalidConfigError, parse_config
from fsbackup.config.advice import notes

PERMUTATION = "must name every backend of the set, each once, and no other"


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, one line each, without the file's name."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c", environ={})
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


def one_set(settings: str) -> str:
    """Return a configuration whose line 4 is a set with these settings over the backends a, b and c."""
    disks = ", ".join(f"{name}: {{type: local, path: /{name}}}" for name in "abc")
    return f"version: 1\nbackends: {{{disks}}}\nreplication:\n  s: {{{settings}}}\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("min_copies: 1", "backends: is missing (for example backends: [local, r2, b2])"),
        ("backends: []", "backends: must name at least one backend"),
        ("backends: a", "backends: must be a list (for example backends: [local, r2, b2])"),
        ("backends: [a, 5]", "backends[1]: must be text, in quotes where it looks like something else, not 5"),
        ("backends: [a, b, a]", "backends: must name each backend once"),
        ("backends: [a, bb]", "backends[1]: must be the name of a backend, not 'bb' (did you mean 'b'?)"),
        ("backends: [a, zzz]", "backends[1]: must be the name of a backend, not 'zzz' (there are: a, b, c)"),
        ("backends: [a, b], min_copies: 0", "min_copies: must be at least 1, not 0"),
        (
            "backends: [a, b], min_copies: 3",
            "min_copies: must be at most 2, not 3 (the number of backends in the set)",
        ),
        ("backends: [a, b], min_copies: all", "min_copies: must be a whole number, not 'all'"),
        (
            "backends: [a, b, c], min_copies: 1, append: true",
            "append: needs min_copies 2, more than half of the backends (otherwise two that append at the same "
            "time could both be told that theirs is stored)",
        ),
        ("backends: [a, b], min_copys: 1", "min_copys: is not a setting here (did you mean 'min_copies'?)"),
        ("backends: [a, b], read_order: [a]", f"read_order: {PERMUTATION}"),
        ("backends: [a, b], read_order: [a, b, c]", f"read_order: {PERMUTATION}"),
        ("backends: [a, b], read_order: [a, a]", f"read_order: {PERMUTATION}"),
        ("backends: [a, b], read_order: [a, [a, b]]", f"read_order: {PERMUTATION}"),
        ("backends: [a, b], read_order: [a, b, []]", f"read_order: {PERMUTATION}"),
        (
            "backends: [a, b], read_order: a",
            "read_order: must be a list (for example read_order: [local, [r2, b2]])",
        ),
        (
            "backends: [a, b], read_order: [a, [[b]]]",
            "read_order[1][0]: must be text, in quotes where it looks like something else",
        ),
        ("backends: [a, b], unproven: never", "unproven: must be 'warn', 'raise' or 'allow', not 'never'"),
        ("backends: [a], memory: 1MiB", "memory: must be at least 16MiB, not '1MiB'"),
        ("backends: [a], spool: {dir: /s}", "spool.max_bytes: is missing (for example max_bytes: 20GiB)"),
        (
            "backends: [a], spool: /s",
            "spool: must be a mapping of settings (for example spool: {dir: /var/tmp/fsbackup, max_bytes: 20GiB})",
        ),
        ("backends: [a], spool: {dir: /s, max_bytes: 0}", "spool.max_bytes: must be at least 1, not 0"),
        (
            "backends: [a], overwrite: true",
            "overwrite: is not a setting here "
            "(there are: backends, min_copies, read_order, memory, stall_timeout, unproven, append, spool)",
        ),
    ],
)
def test_sets(settings: str, expected: str) -> None:
    """A set names existing backends once, and its numbers fit it."""
    assert mistakes(one_set(settings)) == [f"4: replication.s.{expected}"]


def test_a_set_has_defaults() -> None:
    """All copies, all of them read, 64 MiB of memory, no spool."""
    triple = parse_config(one_set("backends: [b, a, c]"), environ={}).replication["s"]
    assert (triple.min_copies, triple.read_order, triple.memory, triple.spool) == (
        3,
        (("b", "a", "c"),),
        64 << 20,
        None,
    )


def test_a_sets_own_settings_are_kept() -> None:
    """min_copies, read_order, memory and spool are taken as written."""
    text = one_set(
        "backends: [a, b, c], min_copies: 1, read_order: [b, [c, a]], memory: 1GiB, "
        "spool: {dir: s, max_bytes: 2GB}"
    )
    pair = parse_config(text, environ={}, directory="/etc").replication["s"]
    assert (pair.min_copies, pair.read_order, pair.memory) == (1, ("b", ("c", "a")), 1 << 30)
    assert pair.spool is not None
    assert (pair.spool.dir, pair.spool.max_bytes) == ("/etc/s", 2_000_000_000)


def test_two_backends_at_one_place_are_not_two_copies() -> None:
    """A set whose backends are the same place under two names is refused; another prefix is another place."""
    text = """version: 1
backends:
  a: &a {type: s3, bucket: buck, access_key_id: k, secret_access_key: s}
  b: {<<: *a, timeout: 5s}
  c: {<<: *a, prefix: c}
replication:
  bad: {backends: [a, b]}
  good: {backends: [a, c]}
"""
    assert mistakes(text) == [
        "7: replication.bad.backends: must be different places: 'a' and 'b' are the same one"
    ]


def test_memory_holds_a_part_of_every_backend() -> None:
    """A part that is larger than the set's memory could never be sent."""
    text = """version: 1
backends:
  a: {type: local, part_size: 32MiB}
replication:
  s: {backends: [a], memory: 16MiB}
"""
    assert mistakes(text) == ["5: replication.s.memory: must hold one part of 'a', which is 32MiB"]


def test_what_appending_gives_up_is_noted() -> None:
    """Of services that may have no condition for it; not of a disk, R2, B2 or Amazon S3."""
    keys = "bucket: backups, access_key_id: id, secret_access_key: '${S}'"
    others = f"s: {{type: s3, endpoint_url: 'https://s3.example.com', {keys}}}, z: {{type: s3, {keys}}}"
    text = one_set("backends: [a, s, z, r], min_copies: 3, append: true").replace(
        "backends: {", f"backends: {{{others}, r: {{type: r2, account_id: x, {keys}}}, ", 1
    )
    [note] = notes(parse_config(text, environ={"S": "Zx81kLmNpQ7r"}))
    assert note.startswith("replication.s: append: what another writer stores on s in the moment")
