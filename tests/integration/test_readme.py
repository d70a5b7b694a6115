"""Every command and snippet of the README, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import pyrage
import pytest

from fsbackup.config import CommandConfig, parse_config
from tests.integration.warm_cli import WarmCli
from tests.postgres.server import PROGRAMS, shop_server
from tests.servers.s3 import S3Endpoint, fresh_bucket, list_keys

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block_with(text: str) -> str:
    """Return the one shell block that has `text` in it."""
    (found,) = [block for block in blocks("sh") if text in block]
    return found


def content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def run_block(
    script: str, where: Path, environ: Mapping[str, str] | None = None, *, pass_fds: Sequence[int] = ()
) -> str:
    """Run a block as a person would paste it; any failing command fails it."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=where,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=170,
            check=False,
            pass_fds=pass_fds,
        ).returncode
        said, errors = map(content, (out, err))
    assert code == 0, f"{script}\n{said}\n{errors}"
    return said


@pytest.fixture
def command(tmp_path: Path) -> str:
    """A PATH on which `fsbackup` is the code under test."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    script = bin_dir / "fsbackup"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m fsbackup "$@"\n')
    script.chmod(0o755)
    return f"{bin_dir}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def warm_command(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The same without the time that loading it takes each time, and the descriptor that it needs."""
    warm = WarmCli({"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)})
    script = tmp_path / "bin/fsbackup"
    script.parent.mkdir()
    script.write_text(warm.script)
    script.chmod(0o755)
    yield f"{script.parent}{os.pathsep}{os.environ['PATH']}", warm.descriptor
    warm.stop()


@pytest.fixture
def postgres() -> Iterator[dict[str, str]]:
    """A real PostgreSQL with a database `shop`; the environment with which its programs find it."""
    with shop_server() as environ:
        yield environ


def checkout(target: Path) -> Path:
    """Copy what git would give a newcomer."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    return target


@pytest.mark.matrix  # it installs the package once more
def test_the_first_command_backs_up_the_checkout_and_sends_nothing_the_second_time(tmp_path: Path) -> None:
    """From nothing: it makes the environment, installs, backs up, and says what is where."""
    here = checkout(tmp_path)
    command = block_with("run quickstart").replace("run quickstart", "run quickstart -v")  # there is no terminal
    first = run_block(command, here)
    assert "every replica confirmed by 3 backends" in first
    for disk in ("disk1", "disk2", "disk3"):
        copy = here / "quickstart-backups" / disk / "checkout" / "README.md"
        assert copy.read_text() == README
    assert "nothing was sent" in run_block(command, here)


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    """It cannot run itself; the CI run calls it, with the same words."""
    assert block_with("pytest").strip() in (ROOT / ".ci" / "run").read_text()


def test_the_job_of_the_readme_is_one() -> None:
    """As it stands there, below the backends and sets of a configuration."""
    [job] = blocks("yaml")
    head = "version: 1\nbackends: {disk: {type: local, path: /x}}\nreplication: {triple: {backends: [disk]}}\n"
    assert isinstance(parse_config(f"{head}{job}", environ={}).jobs["databases"].source, CommandConfig)


def test_the_python_snippet_runs(tmp_path: Path) -> None:
    """Three lines in a notebook: stored, confirmed, restored; and the sha256sum lines after it."""
    (tmp_path / "db.sql.gz").write_bytes(os.urandom(3000))
    snippet, _ = blocks("python")
    out = run_block(f"'{sys.executable}' - <<'END'\n{snippet}\nEND", tmp_path, {"PYTHONPATH": str(ROOT)})
    assert out.split() == ["complete", "True"]
    assert (tmp_path / "restored.sql.gz").read_bytes() == (tmp_path / "db.sql.gz").read_bytes()
    summed = run_block(block_with("sha256sum"), tmp_path).split()
    assert summed[2] == f'"sha256":"{summed[0]}"'


def test_the_encrypted_example_runs(tmp_path: Path, command: str) -> None:
    """Public keys go in, a private one brings it back, and on the disks there is nothing to be read."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"{identity}\n")
    (tmp_path / "recipients.txt").write_text(f"{identity.to_public()}\n")
    (tmp_path / "dump.sql").write_text("insert into orders\n" * 1000)
    run_block(block_with("--encrypt file:"), tmp_path, {"PATH": command})
    assert (tmp_path / "restored.sql").read_text() == (tmp_path / "dump.sql").read_text()
    assert [path.name for path in tmp_path.rglob("dump.sql*") if "manifests" not in path.parts] == ["dump.sql"] + [
        "dump.sql.zst.age"
    ] * 3


LOSE_A_DISK = "import shutil, os; shutil.rmtree(os.environ['FSBACKUP_QUICKSTART'] + '/disk1')"


def test_the_notebook_example_runs(tmp_path: Path) -> None:
    """In an interpreter whose event loop runs, as a notebook's does; one disk is taken away before the reads."""
    _, example = blocks("python")
    statements = [line for line in example.splitlines() if line]
    statements.insert(next(n for n, line in enumerate(statements) if line.startswith("pd.read")), LOSE_A_DISK)
    where = {"FSBACKUP_QUICKSTART": str(tmp_path / "disks"), "PYTHONPATH": str(ROOT)}
    script = f"'{sys.executable}' -m asyncio <<'END'\n" + "\n".join(statements) + "\nEND"
    shown = dict(zip(statements, run_block(script, ROOT, where).split(">>> ")[1:-1], strict=True))
    [table] = [text for line, text in shown.items() if line.startswith("pd.read")]
    [info] = [text for line, text in shown.items() if line.startswith("fs.info")]
    assert "70" in table
    assert "'sha256'" in info
    assert "disk2" in info


@pytest.mark.matrix  # a kernel takes the processor time of a hundred other tests
def test_the_notebook_example_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real kernel, a statement a cell, with one disk of the quickstart taken away before the reads."""
    import nbformat
    from nbclient import NotebookClient

    _, example = blocks("python")
    monkeypatch.setenv("FSBACKUP_QUICKSTART", str(tmp_path / "disks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [part for part in re.split(r"\n\n", example) if part]
    cells.insert(2, LOSE_A_DISK)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    shown = [
        "".join(each.data["text/plain"] for each in cell.outputs if "data" in each) for cell in notebook.cells
    ]
    assert "70" in shown[3]
    assert "'sha256'" in shown[4]
    assert "disk2" in shown[4]


@pytest.fixture
def deployment(tmp_path: Path, moto: S3Endpoint) -> tuple[Path, S3Endpoint, S3Endpoint]:
    """The production configuration with R2 and B2 at a server on loopback, and something to back up."""
    r2, b2 = fresh_bucket(moto), fresh_bucket(moto)
    text = (ROOT / "configs" / "production.yaml").read_text()
    text = re.sub(
        r"account_id: \S+\n    bucket: \S+", f"endpoint_url: {r2.endpoint_url}\n    bucket: {r2.bucket}", text
    )
    text = re.sub(
        r"region: \S+\n    bucket: \S+",
        f"region: x\n    endpoint_url: {b2.endpoint_url}\n    bucket: {b2.bucket}",
        text,
    )
    for name in (
        "configs/production.yaml",
        "tenants/ring/a.enc",
        "pg_wal/000000010000000000000001",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text if name.endswith("yaml") else name)
    return tmp_path, r2, b2


@pytest.mark.timeout(600)  # twenty commands
def test_the_deployment_runs(
    deployment: tuple[Path, S3Endpoint, S3Endpoint], warm_command: tuple[str, int], postgres: dict[str, str]
) -> None:
    """Check, jobs, dumps of a real PostgreSQL by a job and by `put`, WAL, status, restores, repair, prune."""
    where, r2, b2 = deployment
    command, descriptor = warm_command
    environ = {
        "PATH": f"{PROGRAMS}{os.pathsep}{command}",
        "BACKUP_LOCAL_PATH": str(where / "local"),
        "BACKUP_MIN_BYTES": "100",
        "BACKUP_TENANTS_DIR": str(where / "tenants"),
        **postgres,
    }
    shell = partial(run_block, pass_fds=[descriptor])
    secrets = block_with("config check").replace("=...", "=testing")
    shell(secrets + block_with("fsbackup run full "), where, environ)
    secrets, _ = secrets.splitlines(keepends=True)  # checked once
    assert "PostgreSQL database dump" in (where / "restored.sql").read_text()
    for endpoint in (r2, b2):
        keys = {key for key in list_keys(endpoint) if not key.startswith(".fsbackup/")}
        assert {"backups/adhoc/shop.sql", "wal/000000010000000000000001"} < keys
        assert len(keys) == 4
    assert not (where / "local" / "wal").exists()
    [dump] = (where / "restored").rglob("*.dump")
    assert dump.read_bytes().startswith(b"PGDMP")
    (where / "local/backups/adhoc/shop.sql").unlink()
    mending = block_with("--deep --sample").replace("--sample 1/30", "|| test $? = 3")
    mending = mending.replace("fsbackup doctor", "fsbackup doctor local r2 b2")  # this server archives no WAL
    report = shell(secrets + mending, where, environ)
    assert "missing" in report
    assert (where / "local/backups/adhoc/shop.sql").read_bytes() == (where / "restored.sql").read_bytes()
    shutil.rmtree(where / "local")
    assert "complete" in shell(secrets + block_with("--accept-empty"), where, environ)
    assert (where / "local/backups/adhoc/shop.sql").read_bytes() == (where / "restored.sql").read_bytes()
    pruned = shell(secrets + block_with("fsbackup prune backups/"), where, environ)
    assert "dry run: 0 copies would be deleted" in pruned
    assert pruned.count("complete: 0 copies deleted") == 1
