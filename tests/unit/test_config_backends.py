"""The rules of backends, each with the exact place and words of its error."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fsbackup.config import InvalidConfigError, LocalConfig, R2Config, parse_config

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
            "bucket: is not a setting here (there are: type, timeout, part_size, retention, path, create)",
        ),
        ("type: local, timeout: 5x", f"timeout: must be a duration, not '5x' {DURATION}"),
        ("type: local, timeout: 0", f"timeout: must be longer than nothing, not 0 (seconds, or {DURATION[1:]}"),
        ("type: local, timeout: 0s", "timeout: must be longer than nothing, not '0s'"),
        ("type: local, timeout: true", f"timeout: must be a duration, not true {DURATION}"),
        ("type: local, timeout:", "timeout: is empty (for example timeout: 60s)"),
        ("type: local, part_size: 8M", f"part_size: must be a size, not '8M' {SIZE}"),
        ("type: local, part_size: true", f"part_size: must be a size, not true {SIZE}"),
        ("type: local, part_size: 0", "part_size: must be at least 1, not 0"),
        (
            "type: local, max_concurrency: 4",
            "max_concurrency: is not a setting here "
            "(there are: type, timeout, part_size, retention, path, create)",
        ),
        (
            "type: fsspec, url: 'memory://x', max_concurrency: 4",
            "max_concurrency: is not a setting here "
            "(there are: type, timeout, part_size, retention, url, options, confirm)",
        ),
        (f"{S3}, max_concurrency: 0", "max_concurrency: must be at least 1, not 0"),
        (f"{S3}, max_concurrency: 1.5", "max_concurrency: must be a whole number, not 1.5"),
        (f"{S3}, max_concurrency: true", "max_concurrency: must be a whole number, not true"),
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
        (
            "type: local, retention: {keep_last: 7}",
            "retention: must say what to let go (max_age: 30d, or keep_daily, keep_weekly and so on)",
        ),
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
    assert (disk.timeout, disk.part_size, disk.create) == (120.0, 16 << 20, True)
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
