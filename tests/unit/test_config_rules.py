"""The configuration as a whole: its top level, and all its mistakes at once."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fsbackup.config import Config, InvalidConfigError, Mistake, parse_config

DURATION = "(a whole number and a unit: 90s, 15m, 26h, 30d, 2w, 1y)"


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, one line each, without the file's name."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c", environ={})
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backends: {x: {type: local}}", "1: version: is missing (for example version: 1)"),
        (
            "version: 2\nbackends: {x: {type: local}}",
            "1: version: must be 1, not 2 (this fsbackup reads version 1 of the configuration only)",
        ),
        (
            "version: true\nbackends: {x: {type: local}}",
            "1: version: must be 1, not true (this fsbackup reads version 1 of the configuration only)",
        ),
        (
            "version: 1",
            "1: backends: is missing (for example backends: {disk: {type: local, path: /var/backups}})",
        ),
        ("version: 1\nbackends: {}", "2: backends: must have at least one entry"),
        (
            "version: 1\nbackends: [a]",
            "2: backends: must be a mapping (for example backends: {disk: {type: local, path: /var/backups}})",
        ),
        (
            "version: 1\nbackends:",
            "2: backends: is empty (for example backends: {disk: {type: local, path: /var/backups}})",
        ),
        (
            "version: 1\nbackend: {}\nbackends: {x: {type: local}}",
            "2: backend: is not a setting here (did you mean 'backends'?)",
        ),
    ],
)
def test_the_top_level(text: str, expected: str) -> None:
    """Version 1 and at least one backend are required; other settings are unknown."""
    assert mistakes(text) == [expected]


EMPTY = """\
version: 1
state_dir:
backends:
  a: {type: local, retention: , part_size: }
  b: {type: s3, bucket: buck, access_key_id_file: , secret_access_key: s, ca_bundle: }
  c: {type: fsspec, url: "memory://x", options: {token: }}
replication:
  s: {backends: [a, b], spool: }
jobs:
  j: {source: {command: [x], timeout: }, destination: k, replication: s, shrink: }
"""


def test_a_setting_without_a_value_is_a_mistake() -> None:
    """Whatever was meant, it is not what the setting is when it is left out: no limit, kept for ever."""
    assert [line.partition(" (")[0] for line in mistakes(EMPTY)] == [
        "2: state_dir: is empty",
        "4: backends.a.retention: is empty",
        "4: backends.a.part_size: is empty",
        "5: backends.b.access_key_id_file: is empty",
        "5: backends.b.ca_bundle: is empty",
        "8: replication.s.spool: is empty",
        "10: jobs.j.source.timeout: is empty",
        "10: jobs.j.shrink: is empty",
    ]


def test_a_config_made_in_python_is_checked_as_a_whole() -> None:
    """Names that do not exist are refused also without a file."""
    with pytest.raises(ValueError, match=r"replication\.s\.backends\[0\] must be the name of a backend"):
        Config.model_validate(
            {"version": 1, "backends": {"a": {"type": "local"}}, "replication": {"s": {"backends": ["b"]}}}
        )


def test_all_mistakes_are_listed_at_once() -> None:
    """Ten mistakes of ten kinds make ten lines, in the order of the file."""
    text = """version: 1
backends:
  local: {type: local, pth: /b}
  r2:
    type: r2
    account_id: "${R2_ACCOUNT_ID}"
    bucket: b/ad
    access_key_id: k
    timeout: soon
    retention: {max_age: 30}
  r2: {type: r2}
replication:
  triple: {backends: [local, r3], min_copies: 5}
jobs:
  nightly: {source: {path: /x}, destination: "{what}", replication: tripel}
"""
    assert mistakes(text) == [
        "3: backends.local.pth: is not a setting here (did you mean 'path'?)",
        "4: backends.r2.secret_access_key: is missing (set R2_SECRET_ACCESS_KEY, or write it here)",
        "6: backends.r2.account_id: needs the environment variable R2_ACCOUNT_ID, which is not set "
        "(set R2_ACCOUNT_ID, or write ${R2_ACCOUNT_ID:-default})",
        "7: backends.r2.bucket: must be a bucket's name, not 'b/ad' (letters, digits, '-', '_' and '.')",
        f"9: backends.r2.timeout: must be a duration, not 'soon' {DURATION}",
        f"10: backends.r2.retention.max_age: must be a duration, not 30 {DURATION}",
        "11: backends.r2: is set twice, first in line 4 (keep one)",
        "13: replication.triple.backends[1]: must be the name of a backend, not 'r3' (there are: local, r2)",
        "13: replication.triple.min_copies: must be at most 2, not 5 (the number of backends in the set)",
        "15: jobs.nightly.replication: must be the name of a replication set, not 'tripel' "
        "(did you mean 'triple'?)",
        "15: jobs.nightly.destination: must use known fields only, not '{what}' "
        "(there are: now, name, relpath, hostname, job)",
    ]


def test_a_problem_has_its_parts() -> None:
    """Each mistake is there as data, too: file, line, field, message."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config("version: 1\nbackends:\n  x: {type: local, create: 1}", source="c.yaml", environ={})
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == ("c.yaml", 3, "backends.x.create")
    assert problem.message == "must be true or false, not 1"


_KEYS = st.sampled_from(
    [
        "version",
        "backends",
        "replication",
        "jobs",
        "a",
        "type",
        "path",
        "source",
        "destination",
        "min_copies",
        "spool",
    ]
)
_TEXT = st.text("ab$19{}:-/ \n\x00é", max_size=5)
_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.sampled_from(["a", "local", "s3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | _TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(_KEYS, _ANYTHING, max_size=6))
def test_any_values_make_a_config_or_a_config_error(data: dict[str, object]) -> None:
    """No file, however odd, ends in another exception, in an error without a place, or in jargon."""
    problems = problems_of(yaml.safe_dump(data))
    assert all(problem.line and "is not valid (" not in problem.message for problem in problems)


def problems_of(text: str) -> tuple[Mistake, ...]:
    """Return the mistakes in `text`; none when it is right."""
    try:
        parse_config(text, environ={})
    except InvalidConfigError as error:
        return error.problems or (Mistake("", None, "", "an error without a mistake"),)
    return ()
