"""The rules of jobs, each with the exact place and words of its error."""

from __future__ import annotations

from pathlib import Path

import pyrage
import pytest

from fsbackup.config import CommandConfig, ForEachConfig, InvalidConfigError, SourceConfig, parse_config
from fsbackup.config.advice import notes

RECIPIENT = str(pyrage.x25519.Identity.generate().to_public())
DATE = " (for example {now:%Y/%m} or {now:%Y-%m-%dT%H%M%S})"


def mistakes(text: str) -> list[str]:
    """Return the mistakes in `text`, one line each, without the file's name."""
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, source="c", environ={})
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


def one_job(source: str, destination: str, more: str = "") -> str:
    """Return a configuration whose line 5 is a job."""
    return f"""version: 1
backends: {{a: {{type: local}}}}
replication: {{s: {{backends: [a]}}}}
jobs:
  j: {{source: {source}, destination: '{destination}', replication: s{more}}}
"""


def files_of(text: str) -> SourceConfig:
    """Return the source of the job in `text`, which is files."""
    source = parse_config(text, environ={}).jobs["j"].source
    assert isinstance(source, SourceConfig)
    return source


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
    assert mistakes(one_job("{path: /x}", destination)) == [f"5: jobs.j.destination: {expected}"]


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
        "5: jobs.j.destination: must have {name} or {relpath}, not 'a/{now:%Y}' "
        "(the source can be many files, and each needs its own key)"
    ]
    for field in ("{name}", "{relpath}"):
        assert files_of(one_job(source, f"a/{field}")).may_match_many


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
            one_job("{path: /x, exclude: ['!']}", "{name}"),
            "source.exclude[0]: must be a pattern of gitignore, not '!'",
        ),
        (
            one_job("{path: /x, links: yes}", "a"),
            "source.links: must be 'skip', 'follow' or 'fail', not 'yes'",
        ),
        (
            one_job("{path: /x, exlude: [a]}", "a"),
            "source.exlude: is not a setting here (did you mean 'exclude'?)",
        ),
        (one_job("{path: /x}", "a", ", overwrite: maybe"), "overwrite: must be true or false, not 'maybe'"),
        (one_job("{path: /x}", "a", ", allow_empty: 1"), "allow_empty: must be true or false, not 1"),
        (
            one_job("{path: /x}", "a", ", prune: true"),
            "prune: needs a backend of 's' that has a retention "
            "(for example retention: {max_age: 30d, keep_last: 7})",
        ),
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
    assert mistakes(text) == [f"5: jobs.j.{expected}"]


def test_a_job_has_defaults() -> None:
    """Nothing is excluded, no link followed and nothing overwritten unless it says so."""
    job = parse_config(one_job("{path: /x}", "a"), environ={}).jobs["j"]
    assert isinstance(job.source, SourceConfig)
    assert (job.source.path, job.source.exclude, job.overwrite, job.replication) == ("/x", (), False, "s")
    assert (job.source.links, job.source.changing) == ("skip", "keep")
    assert (job.allow_empty, job.prune) == (False, False)


def test_a_job_may_prune_where_there_is_a_retention() -> None:
    """One backend with a rule is enough."""
    text = one_job("{path: /x}", "a", ", prune: true, allow_empty: true")
    text = text.replace("{type: local}", "{type: local, retention: {max_age: 1d}}")
    job = parse_config(text, environ={}).jobs["j"]
    assert (job.allow_empty, job.prune) == (True, True)


DUMP = "command: [pg_dump, -Fc, shop]"
EACH = "command: [pg_dump, '{item}'], for_each: [a, b]"


def test_a_command_and_its_items() -> None:
    """With a list of items, or with a command that lists them."""
    plain = parse_config(one_job(f"{{{DUMP}}}", "db/{now:%Y}"), environ={}).jobs["j"]
    assert isinstance(plain.source, CommandConfig)
    assert plain.source.command == ("pg_dump", "-Fc", "shop")
    assert (plain.source.min_bytes, plain.source.timeout, plain.source.for_each, plain.source.parallel) == (
        1,
        None,
        None,
        1,
    )
    assert plain.shrink_below == 0.5
    more = "min_bytes: 1MiB, timeout: 2h, parallel: 2"
    listed = parse_config(one_job(f"{{{EACH}, {more}}}", "db/{item}", ", shrink: 90%"), environ={}).jobs["j"]
    assert isinstance(listed.source, CommandConfig)
    assert (listed.source.for_each, listed.source.min_bytes, listed.source.timeout) == (
        ("a", "b"),
        1 << 20,
        7200.0,
    )
    assert (listed.source.parallel, listed.shrink_below, listed.refuses_shrunk) == (2, 0.9, False)
    for more, refuses in (("", False), (", action: warn", False), (", action: fail", True)):
        more = f", shrink: {{below: 40%{more}}}"
        found = parse_config(one_job("{path: /x}", "a", more), environ={}).jobs["j"]
        assert (found.shrink_below, found.refuses_shrunk) == (0.4, refuses)
    asked = EACH.replace("[a, b]", "{command: [ls, /srv]}")
    source = parse_config(one_job(f"{{{asked}}}", "db/{item}"), environ={}).jobs["j"].source
    assert isinstance(source, CommandConfig)
    assert source.for_each == ForEachConfig(command=("ls", "/srv"))
    assert parse_config(one_job("{path: /x}", "a"), environ={}).jobs["j"].shrink_below == 0


@pytest.mark.parametrize(
    ("source", "destination", "expected"),
    [
        (
            "{command: pg_dump shop}",
            "a",
            "source.command: must be a list (for example command: [pg_dump, -Fc, shop])",
        ),
        ("{command: []}", "a", "source.command: must have at least one entry"),
        ("{command: ['']}", "a", "source.command: must begin with the name of a program"),
        (
            "{command: [pg_dump, 3]}",
            "a",
            "source.command[1]: must be text, in quotes where it looks like something else, not 3",
        ),
        (
            f"{{{DUMP}, exclude: [a]}}",
            "a",
            "source.exclude: is not a setting here (there are: command, min_bytes, timeout, for_each, parallel)",
        ),
        (f"{{{DUMP}, min_byte: 3}}", "a", "source.min_byte: is not a setting here (did you mean 'min_bytes'?)"),
        (
            f"{{{DUMP}}}",
            "{name}",
            "destination: must not have {name} or {relpath}, not '{name}' (a command has no file)",
        ),
        (
            f"{{{DUMP}}}",
            "{item}",
            "destination: must use known fields only, not '{item}' (there are: now, hostname, job)",
        ),
        (
            "{path: /x}",
            "{item}",
            "destination: must use known fields only, not '{item}' (there are: now, name, relpath, hostname, job)",
        ),
        (f"{{{EACH}}}", "a", "destination: must have {item}, not 'a' (each item needs its own key)"),
        (
            f"{{{DUMP}, for_each: [a]}}",
            "{item}",
            "source.for_each: needs a command with {item} in its arguments (for example [pg_dump, -Fc, '{item}'])",
        ),
        (f"{{{EACH.replace('[a, b]', '[]')}}}", "{item}", "source.for_each: must have at least one entry"),
        (f"{{{EACH.replace('[a, b]', '[a, a]')}}}", "{item}", "source.for_each: must name each item once"),
        (
            f"{{{EACH.replace('[a, b]', 'a')}}}",
            "{item}",
            "source.for_each: must be a list (for example for_each: [shop, crm])",
        ),
        (
            f"{{{EACH.replace('[a, b]', '{comand: [ls]}')}}}",
            "{item}",
            "source.for_each.comand: is not a setting here (did you mean 'command'?)",
        ),
    ],
)
def test_what_is_wrong_with_a_command(source: str, destination: str, expected: str) -> None:
    """Each with its place; a missing setting beside a misspelt one is another mistake."""
    assert f"5: jobs.j.{expected}" in mistakes(one_job(source, destination))


def test_one_wrong_entry_is_one_mistake() -> None:
    """Not also a list without entries, because none of them is right."""
    for source, field in (
        ("{command: [3]}", "command[0]"),
        ("{command: [x, '{item}'], for_each: ['']}", "for_each[0]"),
    ):
        found = mistakes(one_job(source, "{item}" if "item" in source else "a"))
        assert [line.partition(": ")[2].partition(":")[0] for line in found] == [f"jobs.j.source.{field}"]


@pytest.mark.parametrize("value", ["50", "120%", "-1%", "half"])
def test_a_percentage_is_written_as_one(value: str) -> None:
    """Half of what is 50%; 50 could be bytes."""
    for written, field in ((value, "shrink"), (f"{{below: {value}}}", "shrink.below")):
        assert mistakes(one_job("{path: /x}", "a", f", shrink: {written}"))[0].startswith(
            f"5: jobs.j.{field}: must be a percentage"
        )


def test_what_is_wrong_with_shrink() -> None:
    """The mapping needs its share, and an action that there is."""
    for written, expected in (
        ("{action: fail}", "shrink.below: is missing"),
        ("{below: 50%, action: stop}", "shrink.action: must be 'warn' or 'fail', not 'stop'"),
        ("{below: 50%, acton: fail}", "shrink.acton: is not a setting here (did you mean 'action'?)"),
    ):
        assert mistakes(one_job("{path: /x}", "a", f", shrink: {written}"))[0].startswith(f"5: jobs.j.{expected}")


KINDS = "age1..., ssh-ed25519 ..., ssh-rsa ..., or file:PATH with one of these on each line"
SECRET = "AGE-SECRET-KEY-1QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7LQPZRY9X8GF2TVDW0S3JN54K"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("compress: gzip", "compress: must be zstd, not 'gzip' (or with a level from 1 to 19, {zstd: 9})"),
        ("compress: {zstd: 20}", "compress.zstd: must be at most 19, not 20"),
        ("compress: {zstd: 0}", "compress.zstd: must be at least 1, not 0"),
        ("compress:", "compress: is empty (for example compress: zstd)"),
        ("encrypt:", "encrypt: is empty (for example encrypt: {age: [age1...]})"),
        ("encrypt: age1x", "encrypt: must be a mapping of settings (for example encrypt: {age: [age1...]})"),
        ("encrypt: {age: []}", "encrypt.age: must name at least one public key"),
        (
            "encrypt: {age: age1x}",
            "encrypt.age: must be a list (for example age: [age1..., file:/etc/recipients])",
        ),
        (
            "encrypt: {age: [age1x]}",
            f"encrypt.age[0]: must be a public key that age can encrypt to, not 'age1x' ({KINDS})",
        ),
        (
            "encrypt: {age: ['file:/no/x']}",
            "encrypt.age[0]: /no/x cannot be read: No such file or directory",
        ),
    ],
)
def test_stages_of_a_job(setting: str, expected: str) -> None:
    """An empty setting is none that was left out: what was to be encrypted would be stored in the clear."""
    assert mistakes(one_job("{path: /x}", "a", f", {setting}")) == [f"5: jobs.j.{expected}"]


def test_a_private_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """Wherever it is written, also in the file of recipients."""
    (tmp_path / "keys").write_text(f"# ours\n{SECRET}\n")
    for recipient in (SECRET, f"file:{tmp_path / 'keys'}"):
        (mistake,) = mistakes(one_job("{path: /x}", "a", f", encrypt: {{age: ['{recipient}']}}"))
        assert "is a private key" in mistake
        assert SECRET[15:] not in mistake


def test_what_stages_add_to_the_key(tmp_path: Path) -> None:
    """It is known without a look at any file; a relative path starts at the configuration's directory."""
    (tmp_path / "keys").write_text(RECIPIENT)
    text = one_job("{path: /x}", "a/{now:%Y}", ", compress: {zstd: 9}, encrypt: {age: ['file:keys']}")
    job = parse_config(text, environ={}, directory=tmp_path).jobs["j"]
    assert (job.suffix, job.key_template) == (".zst.age", "a/{now:%Y}.zst.age")
    assert job.encrypt
    assert job.encrypt.age == (f"file:{tmp_path / 'keys'}",)
    plain = parse_config(one_job("{path: /x}", "a"), environ={}).jobs["j"]
    assert (plain.compress, plain.encrypt, plain.key_template) == (None, None, "a")


def test_what_is_compressed_already_is_noted() -> None:
    """`config check` says so, by the name."""
    config = parse_config(one_job("{path: /x/db.sql.gz}", "a", ", compress: zstd"), environ={})
    assert any("db.sql.gz looks compressed already" in note for note in notes(config))
