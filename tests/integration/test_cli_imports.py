"""Which modules a command loads: none that it does not need, so that it starts fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fsbackup
from tests.integration.cli_helpers import Cli
from tests.matrix import matrix
from tests.postgres.segments import name_of, segment
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint

_HEAVY = ("s3fs", "fsspec", "pydantic", "yaml", "botocore", "aiobotocore", "rich", "asyncio")


def loaded(code: str, cwd: Path, *modules: str) -> set[str]:
    """Return which of `modules` a fresh interpreter has loaded after `code`; "a.b." is any of a package."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    environ = {"PYTHONPATH": str(Path(fsbackup.__file__).parents[1]), "HOME": str(cwd), "XDG_STATE_HOME": str(cwd)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=cwd, env=environ, check=True)
    names = done.stderr.decode().split()
    return {each for each in names if each in modules or f"{each.rpartition('.')[0]}." in modules}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line in a directory of its own."""
    return Cli(tmp_path)


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    """Public names are loaded on first use."""
    assert loaded("import fsbackup", tmp_path, *_HEAVY) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"], ["unknown"]])
def test_help_loads_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    """Help starts fast, also on a slow machine."""
    code = f"from fsbackup.cli import main; main({arguments!r})"
    assert loaded(code, tmp_path, *_HEAVY) == set()


#: What other commands do, and stores of other kinds. Loading all of these takes longer than storing a small file.
_OTHERS = (
    "fsbackup.cli.run",
    "fsbackup.jobs.run",
    "fsbackup.jobs.sources",
    "fsbackup.engine.delete",
    "fsbackup.engine.restore",
    "fsbackup.stores.generic.",
    "fsbackup.replication.batch",
    "fsbackup.replication.status",
    "fsbackup.replication.tree",
    "fsbackup.replication.verify",
    "fsbackup.replication.walk",
    "fsbackup.replication.prune.",
    "fsbackup.replication.repair.",
    "fsbackup.retention.plan",
)
_READS = {"fsbackup.engine.restore"}


def test_put_loads_its_own_modules_only(cli: Cli) -> None:
    """Neither those of other commands, nor those of buckets where there are none."""
    code = "from fsbackup.cli import main; main(['put', 'note', 'new'])"
    assert loaded(code, cli.home, "http.client", "fsbackup.stores.s3.", *_OTHERS) == set()
    assert cli.stored("disk1") != {}


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["wal-push", name_of(2), "--cluster", "shop"], ("fsbackup.stores.local.", *_OTHERS)),
        (
            ["wal-fetch", name_of(1), "copy", "--cluster", "shop"],
            ("fsbackup.engine.upload", *set(_OTHERS) - _READS),
        ),
    ],
    ids=lambda each: each[0],
)
def test_archive_commands_load_their_own_modules_only(
    cli: Cli, moto: S3Endpoint, arguments: list[str], others: tuple[str, ...]
) -> None:
    """PostgreSQL waits for each of these processes."""
    config = {
        "version": 1,
        "backends": {name: s3.fresh_bucket(moto).backend for name in ("one", "two")},
        "replication": {"pair": {"backends": ["one", "two"], "min_copies": 2}},
        "postgres": {"shop": {"replication": "pair", "prefix": "pg/shop"}},
    }
    (cli.home / "fsbackup.yaml").write_text(json.dumps(config))
    for number in (1, 2):
        (cli.home / name_of(number)).write_bytes(segment(number))
    assert cli("wal-push", name_of(1), "--cluster", "shop").code == 0
    code = f"from fsbackup.cli import main; print(main({arguments!r}))"
    assert loaded(code, cli.home, *others) == set()


def test_a_local_backup_loads_no_s3_library(cli: Cli) -> None:
    """Nor rich, because there is no terminal."""
    code = "from fsbackup.cli import main; main(['run', 'tree'])"
    assert loaded(code, cli.home, "s3fs", "botocore", "rich") == set()
    assert len(cli.stored("disk1")) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "note", "new"],
        ["get", "old", "copy"],
        *map(matrix, [["ls"], ["stat", "old"], ["status"], ["rm", "old", "--yes"]]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_objects_in_buckets_need_no_s3_library(cli: Cli, moto: S3Endpoint, arguments: list[str]) -> None:
    """Loading them takes longer than all the rest of a small backup; nor does an object of several parts."""
    buckets = {name: s3.fresh_bucket(moto).backend for name in ("one", "two")}
    replication = {"pair": {"backends": list(buckets), "min_copies": 2}}
    config = {"version": 1, "backends": buckets, "replication": replication}
    (cli.home / "fsbackup.yaml").write_text(json.dumps(config))
    assert cli("put", "note", "old").code == 0
    if arguments[0] == "put":
        (cli.home / "note").write_bytes(b"x" * (9 << 20))  # two parts
    code = f"from fsbackup.cli import main; print(main({arguments!r}))"
    assert loaded(code, cli.home, "s3fs", "botocore", "aiobotocore", "aiohttp", "fsspec") == set()
