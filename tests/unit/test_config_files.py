"""Reading and finding files; the files in configs/."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fsbackup.config import InvalidConfigError, LocalConfig, find_config, load_config, parse_config
from fsbackup.errors import ConfigError
from fsbackup.jobs import Planned, plan_job
from fsbackup.retention.series import series_of

CONFIGS = Path(__file__).parents[2] / "configs"
KEYS = dict.fromkeys(("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "B2_ACCESS_KEY_ID", "B2_SECRET_ACCESS_KEY"), "k")
DISK = "version: 1\nbackends: {d: {type: local, path: %s}}\n"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_we_ship_loads(path: Path) -> None:
    """Each file in configs/ is valid, given the four keys of the clouds, and has a job."""
    assert load_config(path, environ=KEYS).jobs


def test_the_shipped_configs_are_found() -> None:
    """The test above has something to do."""
    assert {path.name for path in CONFIGS.glob("*.yaml")} >= {"quickstart.yaml", "production.yaml", "s3-dev.yaml"}


def test_quickstart_needs_nothing() -> None:
    """The quickstart works without any variable and keeps three copies of the checkout beside it."""
    config = load_config(CONFIGS / "quickstart.yaml", environ={})
    root = CONFIGS.parent
    assert config.jobs["quickstart"].source.label == f"{root}/"
    assert config.replication["triple"].min_copies == 3
    paths = [backend.path for backend in config.backends.values() if isinstance(backend, LocalConfig)]
    assert paths == [str(root / "quickstart-backups" / name) for name in ("disk1", "disk2", "disk3")]


def test_production_is_the_deployment() -> None:
    """Full and tenant backups go to three places, WAL to the clouds; 30 days locally, a year in the clouds."""
    shown = load_config(CONFIGS / "production.yaml", environ=KEYS).show()
    assert [(s["backends"], s["min_copies"]) for s in shown["replication"].values()] == [
        (["local", "r2", "b2"], 2),
        (["r2", "b2"], 1),
    ]
    assert {name: b["retention"]["max_age"] for name, b in shown["backends"].items()} == {
        "local": "30d", "r2": "365d", "b2": "365d",
    }  # fmt: skip
    assert {name: (job["replication"], job["destination"]) for name, job in shown["jobs"].items()} == {
        "full": ("triple", "backups/full/{now:%Y/%m/%d-%H%M}.dump"),
        "tenants": ("triple", "backups/tenants/{item}/{now:%G-W%V}.tar"),
        "wal": ("wal", "wal/{relpath}"),
    }
    assert {name: (job["prune"], job["allow_empty"]) for name, job in shown["jobs"].items()} == {
        "full": (True, False), "tenants": (True, False), "wal": (False, True),
    }  # fmt: skip


def test_production_works_for_a_year(tmp_path: Path) -> None:
    """No run meets the keys of another one, and over the year all keys of one thing are of one series."""
    for tenant in ("12", "2026", "ring"):
        (tmp_path / tenant).mkdir()
    (tmp_path / "notes.txt").touch()
    config = load_config(CONFIGS / "production.yaml", environ={**KEYS, "BACKUP_TENANTS_DIR": str(tmp_path)})
    destinations = [job.destination for job in config.jobs.values()]
    for name, every, things in (("full", 1, 1), ("tenants", 7, 3)):
        days = [datetime(2027, 12, 1, 2, 30) + timedelta(days=day) for day in range(0, 366, every)]
        found = [each for day in days for each in plan_job(config, name, now=day)]
        planned = [each for each in found if isinstance(each, Planned)]
        keys = {each.key for each in planned}
        assert len(keys) == len(planned) == things * len(days)
        series = {series_of(key, None, destinations) for key in keys}
        assert len(series - {None}) == len(series) == things


def test_production_needs_its_four_keys() -> None:
    """Without the environment every missing key is named, and nothing else is wrong."""
    with pytest.raises(InvalidConfigError) as caught:
        load_config(CONFIGS / "production.yaml", environ={})
    assert [problem.field for problem in caught.value.problems] == [
        "backends.r2.access_key_id",
        "backends.r2.secret_access_key",
        "backends.b2.access_key_id",
        "backends.b2.secret_access_key",
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/abs", "/abs"),
        ("rel/x", "{dir}/rel/x"),
        ("./x", "{dir}/x"),
        ("../x", "{parent}/x"),
        ("~/x", "/home/me/x"),
    ],
)
def test_paths_start_at_the_files_directory(tmp_path: Path, written: str, expected: str) -> None:
    """A relative path starts at the configuration's directory, whatever the current one; ~ is the home."""
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "c.yaml").write_text(DISK % written)
    backend = load_config(directory / "c.yaml", environ={"HOME": "/home/me"}).backends["d"]
    assert isinstance(backend, LocalConfig)
    assert backend.path == expected.format(dir=directory, parent=tmp_path)


def test_paths_of_text_start_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a text it is `directory`, or else the current directory."""
    monkeypatch.chdir(tmp_path)
    for directory, expected in ((None, f"{tmp_path}/x"), ("/elsewhere", "/elsewhere/x")):
        shown = parse_config(DISK % "x", environ={}, directory=directory).show()
        assert shown["backends"]["d"]["path"] == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("t", "/d/t"),
        ("t/", "/d/t/"),
        (".", "/d/"),
        ("..", "/"),
        ("t/..", "/d/"),
        ("~", "/h/"),
        ("t/*.gz", "/d/t/*.gz"),
    ],
)
def test_a_source_keeps_the_slash_of_a_directory(written: str, expected: str) -> None:
    """A source that is plainly a directory ends with a slash; a local backend's path never does."""
    text = f"""
version: 1
backends: {{d: {{type: local, path: b/}}}}
replication: {{s: {{backends: [d]}}}}
jobs: {{j: {{source: {{path: "{written}"}}, destination: "{{relpath}}", replication: s}}}}
"""
    shown = parse_config(text, environ={"HOME": "/h"}, directory="/d").show()
    assert (shown["jobs"]["j"]["source"]["path"], shown["backends"]["d"]["path"]) == (expected, "/d/b")


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """A file that is not there is a ConfigError with its name, not a traceback."""
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path}/no.yaml: cannot be read: No such file or directory"


def test_a_directory_or_binary_file_is_a_config_error(tmp_path: Path) -> None:
    """What is no UTF-8 text file is refused in words."""
    (tmp_path / "x.yaml").write_bytes(b"version: 1\n# \xff\xfe\n")
    for path, expected in (
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "x.yaml", "is not UTF-8 text"),
    ):
        with pytest.raises(InvalidConfigError) as caught:
            load_config(path)
        assert caught.value.problems[0].message == expected


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """A file saved with a BOM loads."""
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf" + (DISK % "/x").encode())
    assert load_config(str(tmp_path / "c.yaml"), environ={}).backends


def test_the_named_file_wins(tmp_path: Path) -> None:
    """-c comes before $FSBACKUP_CONFIG, and a named file that is missing is an error, not a fallback."""
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.touch()
    two.touch()
    environ = {"FSBACKUP_CONFIG": str(two)}
    assert find_config(str(one), environ) == one
    assert find_config(None, environ) == two
    two.unlink()
    with pytest.raises(ConfigError, match=r"there is no configuration file .*2\.yaml \(\$FSBACKUP_CONFIG\)"):
        find_config(None, environ)


def test_the_usual_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """./fsbackup.yaml, then the XDG directory, then ~/.config."""
    monkeypatch.chdir(tmp_path)
    home, xdg = tmp_path / "home", tmp_path / "xdg"
    for directory in (home / ".config", xdg):
        (directory / "fsbackup").mkdir(parents=True)
        (directory / "fsbackup/config.yaml").touch()
    Path("fsbackup.yaml").touch()
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": str(xdg)}
    assert find_config(None, environ) == Path("fsbackup.yaml")
    Path("fsbackup.yaml").unlink()
    assert find_config(None, environ) == xdg / "fsbackup/config.yaml"
    assert find_config(None, {"HOME": str(home)}) == home / ".config/fsbackup/config.yaml"


def test_when_there_is_none_the_places_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where it looked and how to name a file."""
    monkeypatch.chdir(tmp_path)
    if Path("/etc/fsbackup/config.yaml").exists():
        pytest.skip("this machine has a system-wide configuration")
    with pytest.raises(ConfigError) as caught:
        find_config(None, {"HOME": "/nowhere"})
    assert str(caught.value) == (
        "no configuration file; looked for fsbackup.yaml, /nowhere/.config/fsbackup/config.yaml, "
        "/etc/fsbackup/config.yaml - name one with -c or $FSBACKUP_CONFIG"
    )
