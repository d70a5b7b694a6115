"""The rules of backends, sets and jobs, each with the exact place and words of its error."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fsbackup.config import Config, InvalidConfigError, LocalConfig, R2Config, parse_config

S3 = "type: s3, bucket: buck, access_key_id: k, secret_access_key: s"
DURATION = "(a whole number and a unit: 90s, 15m, 26h, 30d, 2w, 1y)"
SIZE = "(bytes, or a whole number and a unit: 8MiB, 64MB, 1GiB)"
TYPES = "(one of local, r2, b2, s3, fsspec)"


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, one line each, without the file's name."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c", environ={})
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


def backend(settings: str) -> str:
    """Return a configuration whose line 3 is a backend with these settings."""
    return f"version: 1\nbackends:\n  x: {{{settings}}}\n"


def one_set(settings: str) -> str:
    """Return a configuration whose line 4 is a set with these settings over the backends a, b and c."""
    disks = ", ".join(f"{name}: {{type: local, path: /{name}}}" for name in "abc")
    return f"version: 1\nbackends: {{{disks}}}\nreplication:\n  s: {{{settings}}}\n"


def one_job(source: str, destination: str, more: str = "") -> str:
    """Return a configuration whose line 6 is a job."""
    return (
        one_set("backends: [a]")
        + f"jobs:\n  j: {{source: {source}, destination: '{destination}', replication: s{more}}}\n"
    )


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("path: /x", f"type: is missing {TYPES}"),
        ("type:", f"type: is missing {TYPES}"),
        ("type: gcs", f"type: must be the type of a backend, not 'gcs' {TYPES}"),
        ("type: 5", f"type: must be the type of a backend, not 5 {TYPES}"),
        ("type: local, path: ''", "path: must not be empty"),
        ("type: local, path: 5", "path: must be text, in quotes where it looks like something else, not 5"),
        ('type: local, path: "a\\0b"', "path: must be one line without control characters, not 'a\\x00b'"),
        ("type: local, create: 1", "create: must be true or false, not 1"),
        ("type: local, creat: true", "creat: is not a setting here (did you mean 'create'?)"),
        (
            "type: local, bucket: b",
            "bucket: is not a setting here (there are: type, timeout, part_size, max_concurrency, retention, path, create)",
        ),
        ("type: local, timeout: 5x", f"timeout: must be a duration, not '5x' {DURATION}"),
        ("type: local, timeout: 0", f"timeout: must be longer than nothing, not 0 (seconds, or {DURATION[1:]}"),
        ("type: local, timeout: 0s", "timeout: must be longer than nothing, not '0s'"),
        ("type: local, timeout: true", f"timeout: must be a duration, not true {DURATION}"),
        ("type: local, timeout:", f"timeout: is empty (for example timeout: 60s)"),
        ("type: local, part_size: 8M", f"part_size: must be a size, not '8M' {SIZE}"),
        ("type: local, part_size: true", f"part_size: must be a size, not true {SIZE}"),
        ("type: local, part_size: 0", "part_size: must be at least 1, not 0"),
        ("type: local, max_concurrency: 0", "max_concurrency: must be at least 1, not 0"),
        ("type: local, max_concurrency: 1.5", "max_concurrency: must be a whole number, not 1.5"),
        ("type: local, max_concurrency: true", "max_concurrency: must be a whole number, not true"),
        (f"{S3}, part_size: 4MiB", "part_size: must be at least 5MiB, not '4MiB'"),
        (f"{S3}, part_size: 6GiB", "part_size: must be at most 5GiB, not '6GiB'"),
        (
            f"{S3}, prefix: /x",
            "prefix: must be like a key, not '/x' (it starts or ends with '/' or has an empty segment)",
        ),
        (
            f"{S3}, prefix: a/../b",
            "prefix: must be like a key, not 'a/../b' ('.' and '..' are not allowed as segments)",
        ),
        (f"{S3}, ca_bundle: ''", "ca_bundle: must not be empty"),
        (f"{S3}, region: us/east", "region: must be letters, digits and '-', not 'us/east'"),
        (f"{S3}, endpoint_url: localhost", "endpoint_url: must be a URL (https://host or http://host)"),
        (
            f"{S3}, endpoint_url: 'http://a:b@h'",
            "endpoint_url: must not hold a password (give it apart from the URL, as ${NAME})",
        ),
        (f"{S3}, endpoint_url: 'http://h/?a=b'", "endpoint_url: must not have a part after '?' or '#'"),
        (
            S3.replace("bucket: buck", "bucket: a/b"),
            "bucket: must be a bucket's name, not 'a/b' (letters, digits, '-', '_' and '.')",
        ),
        (S3.replace(": k", ": ' k'"), "access_key_id: must not have spaces or line breaks around it"),
        (S3.replace(": k", ": ''"), "access_key_id: must not be empty"),
        (S3.replace(": k", ": 12"), "access_key_id: must be text, in quotes where it looks like something else"),
        (S3.replace("bucket: buck, ", ""), "bucket: is missing (for example bucket: securesyntax)"),
        ("type: fsspec", "url: is missing (for example url: sftp://nas/backups)"),
        ("type: fsspec, url: /x", "url: must be an fsspec URL (for example sftp://host/path)"),
        ("type: fsspec, url: 'memory://x', confirm: maybe", "confirm: must be 'checksum' or 'size', not 'maybe'"),
        (
            "type: fsspec, url: 'memory://x', options: [a]",
            "options: must be a mapping (for example options: {username: backup, password: ${NAS_PASSWORD}})",
        ),
        ("type: local, retention: {keep_last: 7}", "retention.max_age: is missing (for example max_age: 30d)"),
        ("type: local, retention: {max_age: 30}", f"retention.max_age: must be a duration, not 30 {DURATION}"),
        ("type: local, retention: {max_age: 0d}", "retention.max_age: must be longer than nothing, not '0d'"),
        (
            "type: local, retention: {max_age: 9999y}",
            f"retention.max_age: must be a duration, not '9999y' {DURATION}",
        ),
        ("type: local, retention: {max_age: 1d, keep_last: 0}", "retention.keep_last: must be at least 1, not 0"),
        (
            "type: local, retention: {max_age: 1d, keep_daily: -1}",
            "retention.keep_daily: must be at least 0, not -1",
        ),
        (
            "type: local, retention: {max_age: 1d, keep_dayly: 1}",
            "retention.keep_dayly: is not a setting here (did you mean 'keep_daily'?)",
        ),
    ],
)
def test_backends(settings: str, expected: str) -> None:
    """Every setting of a backend has a rule, and its error says what is wrong and what is right."""
    assert mistakes(backend(settings)) == [f"3: backends.x.{expected}"]


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", "ä", "", "a" * 64])
def test_names_are_plain(name: str) -> None:
    """Names of backends, sets and jobs are letters, digits, '-', '_' and '.'."""
    found = mistakes(f"version: 1\nbackends:\n  '{name}': {{type: local}}\n")
    assert found == [f"3: backends.{name}: must be a name (letters, digits, '-', '_' and '.')"]


def test_r2_needs_an_account_or_an_endpoint() -> None:
    """account_id may be left out when endpoint_url is given."""
    keys = "type: r2, bucket: buck, access_key_id: k, secret_access_key: s"
    assert mistakes(backend(keys)) == [
        "3: backends.x.account_id: is missing (set R2_ACCOUNT_ID, or write it or endpoint_url here)"
    ]
    config = parse_config(backend(f"{keys}, endpoint_url: 'http://127.0.0.1:9000'"), environ={})
    r2 = config.backends["x"]
    assert isinstance(r2, R2Config)
    assert (r2.account_id, r2.endpoint_url) == (None, "http://127.0.0.1:9000")


@pytest.mark.parametrize("kind", ["local", "LOCAL", "Local"])
def test_types_are_known_in_any_case(kind: str) -> None:
    """`type` is read without regard to case."""
    assert parse_config(backend(f"type: {kind}"), environ={}).backends["x"].type == "local"


def test_values_become_seconds_and_bytes() -> None:
    """timeout is seconds as a float, part_size bytes, max_age a timedelta, and the rest has defaults."""
    text = backend("type: local, timeout: 2m, part_size: 16MiB, retention: {max_age: 30d}")
    disk = parse_config(text, environ={}).backends["x"]
    assert isinstance(disk, LocalConfig)
    assert (disk.timeout, disk.part_size, disk.max_concurrency, disk.create) == (120.0, 16 << 20, 4, True)
    assert disk.retention is not None
    assert (disk.retention.max_age, disk.retention.keep_last, disk.retention.keep_daily) == (
        timedelta(days=30),
        1,
        0,
    )


@pytest.mark.parametrize(("written", "expected"), [("60", 60.0), ("0.5", 0.5), ("90s", 90.0), ("'7'", 7.0)])
def test_a_timeout_may_be_bare_seconds(written: str, expected: float) -> None:
    """Only for timeout, a number without a unit is seconds."""
    assert parse_config(backend(f"type: local, timeout: {written}"), environ={}).backends["x"].timeout == expected


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
        ("backends: [a, b], min_copys: 1", "min_copys: is not a setting here (did you mean 'min_copies'?)"),
        ("backends: [a, b], read_order: [a]", "read_order: " + PERMUTATION),
        ("backends: [a, b], read_order: [a, b, c]", "read_order: " + PERMUTATION),
        ("backends: [a, b], read_order: [a, a]", "read_order: " + PERMUTATION),
        ("backends: [a], memory: 1MiB", "memory: must be at least 16MiB, not '1MiB'"),
        ("backends: [a], spool: {dir: /s}", "spool.max_bytes: is missing (for example max_bytes: 20GiB)"),
        (
            "backends: [a], spool: /s",
            "spool: must be a mapping of settings (for example spool: {dir: /var/tmp/fsbackup, max_bytes: 20GiB})",
        ),
        ("backends: [a], spool: {dir: /s, max_bytes: 0}", "spool.max_bytes: must be at least 1, not 0"),
        (
            "backends: [a], overwrite: true",
            "overwrite: is not a setting here (there are: backends, min_copies, read_order, memory, spool)",
        ),
    ],
)
def test_sets(settings: str, expected: str) -> None:
    """A set names existing backends once, and its numbers fit it."""
    assert mistakes(one_set(settings)) == [f"4: replication.s.{expected}"]


def test_a_set_has_defaults() -> None:
    """All copies, read in the order given, 64 MiB of memory, no spool."""
    triple = parse_config(one_set("backends: [b, a, c]"), environ={}).replication["s"]
    assert (triple.min_copies, triple.read_order, triple.memory, triple.spool) == (
        3,
        ("b", "a", "c"),
        64 << 20,
        None,
    )


def test_a_sets_own_settings_are_kept() -> None:
    """min_copies, read_order, memory and spool are taken as written."""
    text = one_set(
        "backends: [a, b], min_copies: 1, read_order: [b, a], memory: 1GiB, spool: {dir: s, max_bytes: 2GB}"
    )
    pair = parse_config(text, environ={}, directory="/etc").replication["s"]
    assert (pair.min_copies, pair.read_order, pair.memory) == (1, ("b", "a"), 1 << 30)
    assert pair.spool is not None
    assert (pair.spool.dir, pair.spool.max_bytes) == ("/etc/s", 2_000_000_000)


def test_two_backends_at_one_place_are_not_two_copies() -> None:
    """A set whose backends are the same place under two names is refused; another prefix is another place."""
    text = f"""version: 1
backends:
  a: {{{S3}}}
  b: {{{S3}, timeout: 5s}}
  c: {{{S3}, prefix: c}}
replication:
  bad: {{backends: [a, b]}}
  good: {{backends: [a, c]}}
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


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("", "must not be empty"),
        ("{nam}", "must use known fields only, not '{nam}' (did you mean 'name'?)"),
        ("{}", "must use known fields only, not '{}' (there are: now, name, relpath, hostname, job)"),
        (
            "{now.year}",
            "must use known fields only, not '{now.year}' (there are: now, name, relpath, hostname, job)",
        ),
        ("{job[0]}", "must use known fields only, not '{job[0]}' (did you mean 'job'?)"),
        ("a/{name", "must have its braces in pairs, not 'a/{name' (for example backups/{now:%Y/%m}/{name})"),
        ("a}/b", "must have its braces in pairs, not 'a}/b' (for example backups/{now:%Y/%m}/{name})"),
        ("{name:>9}", "must use {name} as it is, not '{name:>9}' (only {now} takes a format)"),
        ("{name!r}", "must use {name} as it is, not '{name!r}' (only {now} takes a format)"),
        ("{now}", "must give {now} a date format, not '{now}'" + DATE),
        ("{now:YYYY}", "must give {now} a date format, not '{now:YYYY}'" + DATE),
        ("{now:%!}", "must give {now} a date format, not '{now:%!}'" + DATE),
        ("{now:%Y{job}}", "must give {now} a date format, not '{now:%Y{job}}'" + DATE),
        (
            "/a/{name}",
            "must make a legal key, not '/a/{name}' (it starts or ends with '/' or has an empty segment)",
        ),
        ("a/../{name}", "must make a legal key, not 'a/../{name}' ('.' and '..' are not allowed as segments)"),
        (
            ".fsbackup/{name}",
            "must make a legal key, not '.fsbackup/{name}' ('.fsbackup' is reserved for fsbackup's own records)",
        ),
    ],
)
def test_destinations(destination: str, expected: str) -> None:
    """A template has known fields, a date format for {now} only, and makes legal keys."""
    assert mistakes(one_job("{path: /x}", destination)) == [f"6: jobs.j.destination: {expected}"]


@pytest.mark.parametrize(
    "destination",
    [
        "backups/full/{now:%Y/%m}/{name}",
        "wal/{relpath}",
        "{hostname}/{job}/{{literal}}/{now:%Y-%m-%dT%H:%M}",
        "x.gz",
    ],
)
def test_good_destinations_are_kept_as_written(destination: str) -> None:
    """A template is validated, not rendered."""
    config = parse_config(one_job("{path: /x/db.gz}", destination), environ={})
    assert config.jobs["j"].destination == destination


@pytest.mark.parametrize("source", ["{path: /x/}", "{path: ..}", "{path: '/x/*.gz'}", "{path: /x, exclude: [a]}"])
def test_many_files_need_many_keys(source: str) -> None:
    """Where the source is plainly a directory or glob, the template must tell its files apart."""
    assert mistakes(one_job(source, "a/{now:%Y}")) == [
        "6: jobs.j.destination: must have {name} or {relpath}, not 'a/{now:%Y}' "
        "(the source can be many files, and each needs its own key)"
    ]
    for field in ("{name}", "{relpath}"):
        assert parse_config(one_job(source, f"a/{field}"), environ={}).jobs["j"].source.names_many


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            one_job("/x", "a"),
            "source: must be a mapping of settings (for example source: {path: /srv/dumps/db.sql.gz})",
        ),
        (one_job("{}", "a"), "source.path: is missing (for example path: /srv/dumps/db.sql.gz)"),
        (
            one_job("{path: /x, exclude: a}", "a"),
            "source.exclude: must be a list (for example exclude: [*.tmp, .git])",
        ),
        (one_job("{path: /x, exclude: ['']}", "{name}"), "source.exclude[0]: must not be empty"),
        (
            one_job("{path: /x, exlude: [a]}", "a"),
            "source.exlude: is not a setting here (did you mean 'exclude'?)",
        ),
        (one_job("{path: /x}", "a", ", overwrite: maybe"), "overwrite: must be true or false, not 'maybe'"),
        (
            one_job("{path: /x}", "a").replace("replication: s}", "replication: t}"),
            "replication: must be the name of a replication set, not 't' (there are: s)",
        ),
        (
            one_job("{path: /x}", "a").replace(", replication: s}", "}"),
            "replication: is missing (for example replication: triple)",
        ),
    ],
)
def test_jobs(text: str, expected: str) -> None:
    """A job has a source, a destination and an existing set."""
    assert mistakes(text) == [f"6: jobs.j.{expected}"]


def test_a_job_has_defaults() -> None:
    """Nothing is excluded and nothing overwritten unless it says so."""
    job = parse_config(one_job("{path: /x}", "a"), environ={}).jobs["j"]
    assert (job.source.path, job.source.exclude, job.overwrite, job.replication) == ("/x", (), False, "s")


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
        "15: jobs.nightly.replication: must be the name of a replication set, not 'tripel' (did you mean 'triple'?)",
        "15: jobs.nightly.destination: must use known fields only, not '{what}' "
        "(there are: now, name, relpath, hostname, job)",
    ]


def test_a_problem_has_its_parts() -> None:
    """Each mistake is there as data, too: file, line, field, message."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(backend("type: local, create: 1"), source="c.yaml", environ={})
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.field) == ("c.yaml", 3, "backends.x.create")
    assert problem.message == "must be true or false, not 1"
