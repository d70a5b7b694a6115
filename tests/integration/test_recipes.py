"""configs/recipes: each is valid; those for PostgreSQL and SQLite store a real database, which comes back."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from fsbackup import ReplicatedStorage
from fsbackup.config import Config, load_config, parse_config
from fsbackup.jobs import run_job
from fsbackup.jobs.drilling import drill_job
from fsbackup.jobs.template import local_now
from tests.postgres.server import PROGRAMS, shop_server

RECIPES = Path(__file__).parents[2] / "configs/recipes"
KEYS = {
    "R2_ACCOUNT_ID": "0" * 32,
    "R2_BUCKET_NAME": "bucket",
    "R2_ACCESS_KEY_ID": "key-id-of-recipes",
    "R2_SECRET_ACCESS_KEY": "s3cr3t-of-recipes",
}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_recipe_is_valid_and_the_readme_knows_it(path: Path) -> None:
    config = load_config(path, environ=KEYS)
    assert config.jobs
    assert all(job.prune and job.compress for job in config.jobs.values())
    assert f"[`{path.name}`]({path.name})" in (RECIPES / "README.md").read_text()


def test_the_readme_knows_no_others() -> None:
    named = set(re.findall(r"\]\((\w+\.yaml)\)", (RECIPES / "README.md").read_text()))
    assert named == {path.name for path in RECIPES.glob("*.yaml")}


def on_disks(name: str, where: Path, **environ: str) -> Config:
    """Return a recipe with two directories in place of its backends."""
    text = yaml.safe_load((RECIPES / name).read_text())
    for backend in text["backends"]:
        retention = text["backends"][backend]["retention"]
        text["backends"][backend] = {"type": "local", "path": str(where / backend), "retention": retention}
    text["state_dir"] = str(where / "state")
    return parse_config(yaml.safe_dump(text), environ=environ, directory=where)


def run_and_restore(config: Config, job: str, where: Path) -> dict[str, Path]:
    """Run a job twice, an hour apart, and return a file for each object."""
    for hours in range(2):
        report = run_job(config, job, now=local_now() + timedelta(hours=hours))
        assert report.status == "complete", report.as_dict()
    store = ReplicatedStorage.from_config(config, "both", errors="raise")
    restored: dict[str, Path] = {}
    for entry in store.ls():
        target = where / f"restored-{len(restored)}"
        store.restore(entry.key, target)
        restored[entry.key] = target
    return restored


@pytest.fixture(scope="module")
def postgres() -> Iterator[None]:
    """Run a PostgreSQL with a database of two tenants; its programs are on the PATH, and find it."""
    with shop_server() as environ, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
        for name, value in environ.items():
            patch.setenv(name, value)
        psql("shop", "create table orders as select n, md5(n::text) as note from generate_series(1, 5000) n")
        for tenant in ("tenant_a", "tenant_b"):
            psql(
                "shop",
                f"create schema {tenant}; create table {tenant}.items as select n from generate_series(1, 99) n",
            )
        psql("postgres", "create role clerk login")
        yield


def psql(database: str, statement: str) -> str:
    done = subprocess.run(
        ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statement],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


CONTENT = "select count(*), min(n), max(n), md5(string_agg(note, ',' order by n)) from orders"


@pytest.mark.matrix
@pytest.mark.usefixtures("postgres")
def test_a_database_of_postgresql_comes_back(tmp_path: Path) -> None:
    restored = run_and_restore(on_disks("pg_dump.yaml", tmp_path, PGDATABASE="shop"), "shop", tmp_path)
    psql("postgres", "create database again")
    subprocess.run(["pg_restore", "-d", "again", list(restored.values())[-1]], check=True, capture_output=True)
    assert psql("again", CONTENT) == psql("shop", CONTENT)
    psql("postgres", "drop database again")


@pytest.mark.matrix
@pytest.mark.usefixtures("postgres")
def test_all_databases_and_roles_come_back(tmp_path: Path) -> None:
    config = on_disks("pg_databases.yaml", tmp_path)
    [globals_sql, *_] = run_and_restore(config, "globals", tmp_path).values()
    assert "CREATE ROLE clerk" in globals_sql.read_text()
    restored = run_and_restore(config, "databases", tmp_path)
    names = {key.split("/")[2] for key in restored if key.startswith("pg/databases/")}
    assert names == {"postgres", "shop"}
    [dump, *_] = (path for key, path in restored.items() if key.startswith("pg/databases/shop/"))
    listed = subprocess.run(["pg_restore", "--list", dump], check=True, capture_output=True, text=True).stdout
    assert "TABLE DATA public orders" in listed


@pytest.mark.matrix
@pytest.mark.usefixtures("postgres")
def test_one_tenant_comes_back_without_the_others(tmp_path: Path) -> None:
    restored = run_and_restore(on_disks("pg_tenants.yaml", tmp_path, PGDATABASE="shop"), "tenants", tmp_path)
    assert {key.split("/")[1] for key in restored} == {"tenant_a", "tenant_b"}
    [dump] = (path for key, path in restored.items() if key.startswith("tenants/tenant_b/"))
    psql("shop", "drop schema tenant_b cascade")
    subprocess.run(["pg_restore", "-d", "shop", dump], check=True, capture_output=True)
    assert psql("shop", "select sum(n) from tenant_b.items") == str(sum(range(1, 100)))


@pytest.mark.matrix
def test_a_sqlite_database_in_use_comes_back(tmp_path: Path) -> None:
    """Also what another process has written and not yet moved out of its write-ahead log."""
    assert shutil.which("sqlite3"), "install sqlite3: apt-get install sqlite3"
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table orders (n integer primary key, note text)")
        database.executemany("insert into orders values (?, ?)", ((n, f"note {n}") for n in range(2000)))
        database.commit()
        config = on_disks("sqlite.yaml", tmp_path, APP_DATABASE=str(path))
        restored = run_and_restore(config, "app", tmp_path)
    assert restored
    example = (RECIPES / "README.md").read_text().partition("--restore-command -- ")[2].splitlines()[0]
    assert drill_job(config, "app", shlex.split(example)).status == "complete"
    for copy in restored.values():
        with closing(sqlite3.connect(copy)) as database:
            assert database.execute("select count(*), max(note) from orders").fetchone() == (2000, "note 999")


@pytest.mark.parametrize("kind", ["missing", "empty", "a directory"])
def test_where_there_is_no_sqlite_database_nothing_is_stored_or_made(tmp_path: Path, kind: str) -> None:
    """sqlite3 takes an empty file for an empty database, and makes one where there is none."""
    path = tmp_path / "app.db"
    if kind == "empty":
        path.touch()
    elif kind == "a directory":
        path.mkdir()
    config = on_disks("sqlite.yaml", tmp_path, APP_DATABASE=str(path))
    report = run_job(config, "app")
    assert (report.status, report.stored) == ("failed", 0)
    assert f"{path}: there is no database" in str(report.problems[0].error)
    assert path.exists() == (kind != "missing")


@pytest.mark.matrix
def test_of_a_sqlite_database_that_is_damaged_nothing_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    config = on_disks("sqlite.yaml", tmp_path, APP_DATABASE=str(path))
    assert run_job(config, "app").status == "failed"
    assert list(ReplicatedStorage.from_config(config, "both", errors="raise").ls()) == []
