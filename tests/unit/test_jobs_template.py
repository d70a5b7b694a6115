"""From a file to its key, and what a run would do before anything is sent."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fsbackup.config import Config, parse_config
from fsbackup.errors import ConfigError, SourceError
from fsbackup.jobs import Planned, Skipped, SourceFile, Unreadable, plan_job
from fsbackup.jobs.template import Destination, fill_now, local_now

NOW = datetime(2025, 10, 21, 2, 30, 5, tzinfo=UTC)


def key(template: str, relpath: str = "dumps/db.sql.gz") -> str:
    """Return the key of one file."""
    destination = Destination(template, job="nightly", now=NOW, hostname="db1")
    return destination.of_file(SourceFile(f"/srv/{relpath}", relpath))[0]


def config(tmp_path: Path, path: str, destination: str) -> Config:
    """Return a configuration with one job and one local backend, whose copies lie below the source."""
    return parse_config(
        f"""
version: 1
backends: {{disk: {{type: local, path: copies}}}}
replication: {{one: {{backends: [disk]}}}}
jobs:
  nightly: {{source: {{path: {path!r}}}, destination: {destination!r}, replication: one}}
""",
        directory=tmp_path,
    )


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("backups/full/{now:%Y/%m}/{name}", "backups/full"),
        ("backups/full-{now:%Y}/{name}", "backups"),
        ("a/{{b}}/c/{relpath}", "a/{b}/c"),
        ("{job}/{relpath}", ""),
        ("db-{now:%Y}", ""),
        ("one/{{key}}", "one/{key}"),
    ],
)
def test_what_all_keys_lie_below(template: str, prefix: str) -> None:
    """Whole segments before the first field; a job whose key is always the same lies below that."""
    assert Destination(template, job="nightly", now=NOW).prefix == prefix


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("backups/{now:%Y/%m}/{name}", "backups/2025/10/db.sql.gz"),
        ("{relpath}", "dumps/db.sql.gz"),
        ("{hostname}/{job}/{now:%Y-%m-%dT%H%M%S%z}", "db1/nightly/2025-10-21T023005+0000"),
        ("{{relpath}}/{name}", "{relpath}/db.sql.gz"),
    ],
)
def test_fields(template: str, expected: str) -> None:
    """Every field, and braces that are none."""
    assert key(template) == expected


@pytest.mark.parametrize("relpath", ["{now}", "{relpath}/{0}", "a{b", "%Y", "{name.__class__}"])
def test_a_name_is_never_taken_for_a_template(relpath: str) -> None:
    """Whoever may drop a file into a directory must not be able to steer where it goes."""
    assert key("x/{relpath}", relpath) == f"x/{relpath}"


def test_the_hostname_is_this_machines() -> None:
    """What `hostname` prints."""
    destination = Destination("{hostname}", job="j", now=NOW)
    assert destination.of_file(SourceFile("/a", "a")) == (socket.gethostname(), None)


def test_a_key_with_the_time_is_of_a_series() -> None:
    """The same key, with the field in place of what it made; also of a command, and of an item."""
    destination = Destination("{job}/{now:%Y/%m}/{name}", job="nightly", now=NOW)
    assert destination.of_file(SourceFile("/srv/a", "d/a")) == ("nightly/2025/10/a", "nightly/{now:%Y/%m}/a")
    destination = Destination("db/{now:%F}", job="nightly", now=NOW)
    assert destination.of_item(None) == ("db/2025-10-21", "db/{now:%F}")
    destination = Destination("{item}/{now:%F}", job="nightly", now=NOW)
    assert destination.of_item("shop") == ("shop/2025-10-21", "shop/{now:%F}")


def test_the_key_of_put_has_the_time_and_nothing_else_is_a_field() -> None:
    """Braces are legal in keys."""
    assert fill_now("db/{now:%Y-%m}/{name}.{x", NOW) == "db/2025-10/{name}.{x"
    for wrong in ("{now}", "{now:YYYY}", "a{now:/%Y/}"):
        with pytest.raises(ConfigError, match=r"cannot be filled in|cannot be used"):
            fill_now(wrong, NOW)


def test_now_is_local_time_with_its_zone() -> None:
    """Whoever looks for the backup of last night thinks in local time; TZ=UTC changes that."""
    before = datetime.now().replace(microsecond=0)
    now = local_now()
    assert now.tzinfo is not None
    assert now.replace(tzinfo=None) >= before


@pytest.mark.parametrize("relpath", ["a\nb/" + "n/" * 500, "d/" * 500 + "f"])
def test_a_name_that_makes_no_key_is_refused_by_name(relpath: str) -> None:
    """The message has the path and the rule, and shows line breaks as what they are."""
    with pytest.raises(SourceError) as caught:
        key("x/{relpath}", relpath)
    assert repr(f"/srv/{relpath}") in str(caught.value)
    assert "cannot be stored" in str(caught.value)


def test_whether_files_can_share_a_key() -> None:
    """Only the relpath tells all files of a source apart, and only where it is a field."""
    told = {
        template: Destination(template, job="j", now=NOW).is_unique_per_file
        for template in ("a/{relpath}", "a/{name}", "a", "{{relpath}}", "{{{relpath}}}")
    }
    assert told == {
        "a/{relpath}": True,
        "a/{name}": False,
        "a": False,
        "{{relpath}}": False,
        "{{{relpath}}}": True,
    }


def test_files_that_would_share_a_key_are_all_missed(tmp_path: Path) -> None:
    """None of them wins by chance; the others go on, and the missed ones say with which key."""
    for name in ("a/x", "b/x", "b/y", "c/x"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).touch()
    found = list(plan_job(config(tmp_path, "t/", "k/{name}"), "nightly", now=NOW))
    missed = [each for each in found if isinstance(each, Unreadable)]
    assert [each.path for each in missed] == [f"{tmp_path}/t/{name}" for name in ("a/x", "b/x", "c/x")]
    assert all("'k/x'" in str(each.error) for each in missed)
    assert [each for each in found if isinstance(each, Planned)] == [Planned(f"{tmp_path}/t/b/y", "k/y")]


def test_a_constant_destination_for_what_turns_out_to_be_a_directory(tmp_path: Path) -> None:
    """The configuration cannot know that the path is a directory; the plan does."""
    (tmp_path / "t").mkdir()
    for name in "ab":
        (tmp_path / "t" / name).touch()
    found = list(plan_job(config(tmp_path, "t", "k"), "nightly", now=NOW))
    assert [type(each) for each in found] == [Unreadable, Unreadable]


def test_a_jobs_own_copies_are_no_part_of_its_source(tmp_path: Path) -> None:
    """Else every run would back up the run before, and grow for ever."""
    (tmp_path / "copies/k").mkdir(parents=True)
    (tmp_path / "copies/k/old").touch()
    (tmp_path / "a").touch()
    found = list(plan_job(config(tmp_path, ".", "k/{relpath}"), "nightly", now=NOW))
    assert [each.key for each in found if isinstance(each, Planned)] == ["k/a"]
    assert [each.path for each in found if isinstance(each, Skipped)] == [f"{tmp_path}/copies"]


def test_an_unknown_job_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """At once, not when the first file is asked for."""
    with pytest.raises(ConfigError, match=r"'weekly'.*nightly"):
        plan_job(config(tmp_path, ".", "k/{relpath}"), "weekly")
