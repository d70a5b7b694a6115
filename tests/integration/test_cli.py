"""Every command as a real process: what it does, what it prints, as text and as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest

import fsbackup
from tests.integration.cli_helpers import TIMEOUT, Cli

DISKS = ("disk1", "disk2", "disk3")
COMMANDS = ("run", "put", "get", "ls", "stat", "rm", "status", "verify", "repair", "doctor", "config")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line in a directory of its own."""
    return Cli(tmp_path)


class TestHelp:
    """`fsbackup --help` and `fsbackup COMMAND --help`."""

    def test_the_page_names_everything(self, cli: Cli) -> None:
        """Every command, every exit code, the environment, and where the configuration is looked for."""
        done = cli("--help")
        assert (done.code, done.err) == (0, "")
        for word in (*COMMANDS, "0 ", "1 ", "2 ", "3 ", "130 ", "$FSBACKUP_CONFIG", "/etc/fsbackup/config.yaml"):
            assert f"  {word}" in done.out or word in done.out
        assert done.out.count("\n  fsbackup ") + done.out.count("| fsbackup ") >= 3

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_has_an_example(self, cli: Cli, command: str) -> None:
        """In its own help."""
        done = cli(command, "--help")
        assert done.code == 0
        assert f"fsbackup {command}" in done.out.partition("examples:")[2]

    def test_version(self, cli: Cli) -> None:
        """Of the package."""
        assert cli("--version").out == f"fsbackup {fsbackup.__version__}\n"


@pytest.mark.parametrize("before", [True, False])
def test_common_options_stand_before_or_after_the_command(cli: Cli, before: bool) -> None:
    """Options before the command also hold after it."""
    (cli.home / "fsbackup.yaml").rename(cli.home / "other.yaml")
    options, command = ("-c", "other.yaml", "--json", "-q"), ("config", "check")
    done = cli(*options, *command) if before else cli(*command, *options)
    assert done.json()["file"] == "other.yaml"


class TestRun:
    """`run`: jobs."""

    def test_the_first_run_stores_everything_and_the_second_nothing(self, cli: Cli) -> None:
        """The first command of the README, twice."""
        first, second = cli("run", "tree", "-v"), cli("run", "tree", "-v")
        assert (first.code, second.code) == (0, 0)
        expected = {f"t/{name}": (name * 100).encode() for name in ("a", "b/c", "b/d")}
        assert all(cli.stored(disk) == expected for disk in DISKS)
        assert first.out.splitlines()[-1] == "complete: 3 files, 700 B; every replica confirmed by 3 backends"
        assert second.out.splitlines()[-1] == "complete: 3 files already stored on 3 backends; nothing was sent"
        for disk in DISKS:
            assert str(cli.home / disk) in first.out

    def test_without_a_terminal_success_is_silent(self, cli: Cli) -> None:
        """Cron mails whatever a command prints; what is wrong is printed whole."""
        done = cli("run", "--all")
        assert (done.code, done.out, done.err) == (0, "", "")
        (cli.home / "note").write_text("another note")
        done = cli("run", "--all")
        lines = done.out.splitlines()
        assert done.code == 1
        assert lines[0].startswith("note: ")
        assert lines[-1] == "tree: complete, note: failed"
        assert "tree: /" not in done.out

    def test_json_lines(self, cli: Cli) -> None:
        """One line per file, one per job, and one summary."""
        lines = cli("run", "--all", "--json").lines()
        assert [line["kind"] for line in lines] == ["file"] * 3 + ["job", "file", "job", "summary"]
        files = {line["key"]: line for line in lines if line["kind"] == "file"}
        assert files["t/b/c"]["sha256"] == hashlib.sha256(b"b/c" * 100).hexdigest()
        assert all(replica["ok"] for replica in files["t/b/c"]["replicas"].values())
        assert lines[3]["stored"] == 3
        assert lines[-1] == {
            "kind": "summary",
            "status": "complete",
            "jobs": {"tree": "complete", "note": "complete"},
        }

    def test_a_dry_run_prints_the_plan_and_stores_nothing(self, cli: Cli) -> None:
        """As text and as JSON; not even the directories of the disks are created."""
        done = cli("run", "tree", "--dry-run")
        assert done.code == 0
        assert f"{cli.home}/source/b/c -> t/b/c" in done.out
        assert "3 files would be stored on disk1, disk2, disk3" in done.out
        plan = [line for line in cli("run", "tree", "--dry-run", "--json").lines() if line["kind"] == "plan"]
        assert [line["key"] for line in plan] == ["t/a", "t/b/c", "t/b/d"]
        assert plan[0]["backends"] == list(DISKS)
        assert not any((cli.home / disk).exists() for disk in DISKS)

    def test_a_file_that_cannot_be_read_is_reported_and_the_others_are_stored(self, cli: Cli) -> None:
        """Exit code 1; its name is in the report and in the log."""
        (cli.home / "source/dangling").symlink_to("nowhere")
        path = cli.home / "fsbackup.yaml"
        path.write_text(path.read_text().replace("path: source/}", "path: source/, links: fail}"))
        done = cli("run", "tree")
        assert done.code == 1
        assert f"not backed up: {cli.home}/source/dangling: is a link" in done.out
        assert f"{cli.home}/source/dangling" in done.err
        assert done.out.splitlines()[-1].startswith("failed: 1 of 4 files not backed up")
        assert len(cli.stored("disk1")) == 3

    def test_the_other_jobs_run_after_one_has_failed(self, cli: Cli) -> None:
        """The status of each job is printed, and the exit code is the worst."""
        (cli.home / "note").unlink()
        done = cli("run", "note", "tree")
        assert done.code == 1
        assert done.out.splitlines()[-1] == "note: failed, tree: complete"
        assert len(cli.stored("disk1")) == 3

    def test_items_fail_alone(self, cli: Cli) -> None:
        """Exit code 3 while one is stored, 1 when none is; the ones that failed are named with what they said."""
        dump = ["sh", "-c", "echo {item}; echo 'no database {item}' >&2; test {item} = a"]
        job = {
            "source": {"command": dump, "for_each": ["a", "b"]},
            "destination": "d/{item}",
            "replication": "triple",
        }
        path = cli.home / "fsbackup.yaml"
        path.write_text(f"{path.read_text()}  each: {json.dumps(job)}\n")
        done = cli("run", "each")
        assert done.code == 3
        assert "not backed up: sh (b): exit code 1, nothing was stored: no database b" in done.out
        assert done.out.splitlines()[-1].startswith("degraded: 1 of 2 items not backed up. Next: fix the cause")
        assert cli.stored("disk3") == {"d/a": b"a\n"}
        path.write_text(path.read_text().replace('["a", "b"]', '["b", "c"]'))
        assert cli("run", "each").code == 1
        plan = cli("run", "each", "--dry-run")
        assert (plan.code, "  sh (c) -> d/c" in plan.out) == (0, True)

    def test_what_a_command_wrote_is_repaired_where_it_is(self, cli: Cli) -> None:
        """The next run writes something else; and no more than the job's own keys: sets may share backends."""
        path = cli.home / "fsbackup.yaml"
        job = {"source": {"command": ["echo", "1"]}, "destination": "db/full/{now:%f}", "replication": "triple"}
        path.write_text(f"{path.read_text()}  dump: {json.dumps(job)}\n")
        assert cli("run", "dump").code == 0
        shutil.rmtree(cli.home / "disk3")
        done = cli("run", "dump")
        assert done.code == 3
        assert done.out.splitlines()[-1].endswith("`fsbackup repair db/full --set triple` fills them")

    def test_a_dump_that_is_much_smaller_is_said(self, cli: Cli) -> None:
        """Also to cron, which asks for problems only."""
        path = cli.home / "fsbackup.yaml"
        job = {"source": {"command": ["head", "-c", "9000", "/dev/zero"]}, "destination": "d/{now:%f}"}
        path.write_text(f"{path.read_text()}  dump: {json.dumps({**job, 'replication': 'triple'})}\n")
        assert cli("run", "dump", "-q").err == ""
        path.write_text(path.read_text().replace("9000", "10"))
        done = cli("run", "dump", "-q")
        assert (done.code, done.out) == (0, "")
        assert "fsbackup: dump: much smaller: d/" in done.err
        assert done.err.endswith(" has 10 B, the last of its series had 8.8 KiB\n")
        path.write_text(path.read_text().replace('"10"', '"4"'))
        done = cli("run", "dump")
        assert "has 4 B, the last of its series had 10 B" in done.out
        assert "1 much smaller than the last of its series" in done.out.splitlines()[-1]

    def test_quiet_is_silent_on_success_and_only_then(self, cli: Cli) -> None:
        """Cron mails failures only."""
        done = cli("run", "--all", "-q")
        assert (done.code, done.out, done.err) == (0, "", "")
        (cli.home / "note").unlink()
        done = cli("run", "--all", "-q")
        assert (done.code, done.out) == (1, "")
        assert f"{cli.home}/note" in done.err

    def test_verbose_prints_every_file(self, cli: Cli) -> None:
        """On standard output by key, on standard error with the outcome of every replica."""
        done = cli("run", "tree", "-v")
        assert "  stored   t/b/c" in done.out
        assert "INFO    upload ok: disk2 t/b/c size=300" in done.err

    def test_names_that_are_not_utf8_are_printed_as_their_bytes(self, cli: Cli) -> None:
        """And the object can be restored by that name."""
        name = os.fsdecode(b"caf\xe9")
        (cli.home / "source" / name).write_bytes(b"latin")
        strict = {"PYTHONIOENCODING": "utf-8:strict"}
        assert cli("run", "tree", "-v", env=strict).code == 0
        assert f"t/{name}" in cli("ls", env=strict).out.splitlines()
        assert "t/caf\\udce9" in cli("ls", env={"PYTHONIOENCODING": "ascii"}).out.splitlines()
        assert cli("get", f"t/{name}", "-").out == "latin"


class TestPutAndGet:
    """`put` and `get`."""

    def test_a_file_is_stored_and_restored(self, cli: Cli) -> None:
        """With its mode and time, into a file and into a directory."""
        os.utime(cli.home / "note", (1_600_000_000, 1_600_000_000))
        done = cli("put", "note", "x/note")
        assert done.code == 0
        assert done.out.splitlines()[-1] == "complete: x/note (6 B); confirmed by 3 of 3 backends"
        done = cli("get", "x/note", "back")
        assert (done.code, done.err) == (0, "")
        assert "verified against its manifest" in done.out
        assert (cli.home / "back").read_text() == "a note"
        assert (cli.home / "back").stat().st_mtime == 1_600_000_000
        cli("get", "x/note", "source")
        assert (cli.home / "source/note").read_text() == "a note"

    def test_20_mib_through_pipes(self, cli: Cli) -> None:
        """From standard input to standard output, which has nothing but the bytes."""
        data = os.urandom(20 << 20)
        with cli.started("put", "-", "big") as put:
            out, err = put.communicate(data)
        assert (put.returncode, err) == (0, b"")
        assert b"complete: big (20.0 MiB); confirmed by 3 of 3 backends" in out
        with cli.started("get", "big", "-") as get:
            out, err = get.communicate()
        assert (get.returncode, err) == (0, b"")
        assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()

    @pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
    def test_nothing_on_standard_input_is_not_a_backup(self, cli: Cli, overwrite: tuple[str, ...]) -> None:
        """It is what is left of a command that failed; who means it says so."""
        done = cli("put", "-", "k", *overwrite)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("fsbackup: <stdin>: empty stream, nothing was stored - ")
        assert not [path for path in cli.home.glob("disk?/**/*") if path.is_file()]
        assert cli("put", "-", "k", "--allow-empty").code == 0
        assert cli.stored("disk3") == {"k": b""}

    def test_an_empty_file_is_a_backup(self, cli: Cli) -> None:
        """Its size is what it is: nothing failed."""
        (cli.home / "note").write_bytes(b"")
        assert cli("put", "note", "k").code == 0
        assert cli.stored("disk1") == {"k": b""}

    def test_the_output_of_a_command_is_stored(self, cli: Cli) -> None:
        """All that follows ``--`` is its own; the key can have the date, and the record has its series."""
        words = ("sh", "-c", 'echo "$@"', "sh", "--", "--command", "-q")
        done = cli("put", "db/{now:%Y}.{x}.sql", "--command", "--min-size", "9B", "--timeout", "1m", "--", *words)
        assert (done.code, done.err) == (0, "")
        key = f"db/{datetime.now():%Y}.{{x}}.sql"
        assert done.out.splitlines()[-1] == f"complete: {key} (16 B); confirmed by 3 of 3 backends"
        assert cli.stored("disk3") == {key: b"-- --command -q\n"}
        assert (
            json.loads((cli.home / f"disk1/.fsbackup/manifests/{key}").read_text())["series"]
            == "db/{now:%Y}.{x}.sql"
        )
        assert "db/{now:%Y}.{x}.sql" in cli("stat", key).out

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ("--", "sh", "-c", "echo x; echo no such database >&2; exit 3"),
                "sh: exit code 3, nothing was stored: no such",
            ),
            (("--min-size", "1KiB", "--", "echo", "x"), "2 bytes of output, less than the required 1,024"),
            (("--timeout", "1s", "--", "sleep", "1000"), "sleep: not done after 1 seconds"),
        ],
    )
    def test_nothing_is_stored_of_a_command_that_fails(
        self, cli: Cli, words: tuple[str, ...], message: str
    ) -> None:
        """Exit code 1, and why."""
        done = cli("put", "k", "--command", *words)
        assert (done.code, done.out) == (1, "")
        assert message in done.err
        assert not [path for path in cli.home.glob("disk?/**/*") if path.is_file()]

    def test_a_command_gets_nothing_of_our_standard_input(self, cli: Cli) -> None:
        """It is empty, whatever it is for fsbackup."""
        with cli.started("put", "k", "--command", "--", "cat") as put:
            _, err = put.communicate(b"ours", timeout=TIMEOUT)
        assert (put.returncode, b"cat: exit code 0, but no output" in err) == (1, True)

    def test_a_file_can_have_a_key_with_the_date(self, cli: Cli) -> None:
        """Each day another one."""
        assert cli("put", "note", "n/{now:%Y-%m-%d}").code == 0
        assert list(cli.stored("disk1")) == [f"n/{datetime.now():%Y-%m-%d}"]

    def test_json(self, cli: Cli) -> None:
        """Both print one document."""
        put = cli("put", "note", "k", "--json").json()
        assert (put["status"], put["size"], sorted(put["replicas"])) == ("complete", 6, list(DISKS))
        get = cli("get", "k", "back", "--json").json()
        assert (get["verified"], get["sha256"], get["target"]) == (True, put["sha256"], "back")

    def test_the_same_content_is_not_sent_again_and_other_content_is_refused(self, cli: Cli) -> None:
        """Unless --overwrite is given."""
        cli("put", "note", "k")
        assert cli("put", "note", "k").out.count("already stored") == 3
        refused = cli("put", "fsbackup.yaml", "k")
        assert refused.code == 1
        assert "other content is stored under this key" in refused.out
        assert cli("put", "fsbackup.yaml", "k", "--overwrite").code == 0
        assert cli.stored("disk2")["k"] == (cli.home / "fsbackup.yaml").read_bytes()


class TestInspect:
    """`ls`, `stat`, `status`."""

    def test_ls(self, cli: Cli) -> None:
        """Keys in order; with -l one column per replica; with --json one object per line."""
        assert cli("ls").err == "no objects found\n"
        cli("run", "--all")
        assert cli("ls").out == "n/note\nt/a\nt/b/c\nt/b/d\n"
        assert cli("ls", "t/b").out == "t/b/c\nt/b/d\n"
        (cli.home / "disk2/t/b/d").unlink()
        head, first, second = cli("ls", "-l", "t/b").out.splitlines()
        assert head.split() == ["size", "modified", *DISKS, "key"]
        assert first.split()[4:] == ["present", "present", "present", "t/b/c"]
        assert second.split()[4:] == ["present", "missing", "present", "t/b/d"]
        lines = cli("ls", "t/b", "--json").lines()
        assert [line["replicas"]["disk2"] for line in lines] == ["present", "missing"]

    def test_stat(self, cli: Cli) -> None:
        """The manifest, and the state of each replica."""
        cli("put", "note", "k")
        good = cli("stat", "k")
        assert good.code == 0
        assert hashlib.sha256(b"a note").hexdigest() in good.out
        (cli.home / "disk1/k").unlink()
        (cli.home / "disk3/k").write_text("rotten")
        (cli.home / "disk3/.fsbackup/manifests/k").unlink()
        found = cli("stat", "k", "--json")
        assert found.code == 1
        states = {name: each["state"] for name, each in found.json()["replicas"].items()}
        assert states == {"disk1": "missing", "disk2": "present", "disk3": "no manifest"}
        assert abs(found.json()["generation"] / 1000 - time.time()) < 120
        assert found.json()["size"] == 6

    def test_a_stale_replica(self, cli: Cli) -> None:
        """It was unreachable during a replacement: an older generation, and still enough copies."""
        cli("put", "note", "k")
        done = cli("put", "fsbackup.yaml", "k", "--overwrite", env=cli.break_third())
        assert done.code == 3
        found = cli("stat", "k", "--json")
        assert found.code == 3
        replicas = found.json()["replicas"]
        assert [each["state"] for each in replicas.values()] == ["present", "present", "stale"]
        new, same, old = (each["generation"] for each in replicas.values())
        assert new == same > old

    def test_status(self, cli: Cli) -> None:
        """Counts per backend, the newest object, and the keys of incomplete objects."""
        cli("run", "--all")
        good = cli("status")
        assert good.code == 0
        assert good.out.splitlines()[-1] == "complete: 4 objects, no replica missing"
        (cli.home / "disk2/t/b/d").unlink()
        found = cli("status")
        assert found.code == 3
        assert "incomplete: t/b/d (disk2: missing)" in found.out
        found = cli("status", "t")
        assert found.out.splitlines()[-1].endswith("`fsbackup repair t --set triple` repairs them")
        found = cli("status", "t", "--json")
        assert found.code == 3
        triple = found.json()["sets"]["triple"]
        assert (triple["objects"], triple["complete"], triple["backends"]["disk2"]["missing"]) == (3, 2, 1)


class TestRm:
    """`rm`: exactly the keys that are given."""

    def test_it_deletes_from_every_replica_and_nothing_else(self, cli: Cli) -> None:
        """Patterns are taken literally, and a key that does not exist is reported."""
        cli("run", "tree")
        done = cli("rm", "t/b/c", "t/b/*", "t/b")
        assert done.code == 0
        assert done.out.splitlines() == [
            "t/b/c: deleted from disk1, disk2, disk3",
            "t/b/*: not found on disk1, disk2, disk3",
            "t/b: not found on disk1, disk2, disk3",
        ]
        assert all(sorted(cli.stored(disk)) == ["t/a", "t/b/d"] for disk in DISKS)

    def test_an_unreachable_backend_is_reported(self, cli: Cli) -> None:
        """A tombstone on the others finishes it: exit code 3. The same command again completes the delete."""
        cli("run", "tree")
        done = cli("rm", "t/a", "--json", env=cli.break_third())
        assert done.code == 3
        [result] = done.json()["objects"]
        assert result["status"] == "degraded"
        assert {name: each["ok"] for name, each in result["replicas"].items()} == {
            "disk1": True,
            "disk2": True,
            "disk3": False,
        }
        assert cli("rm", "t/a").out == "t/a: deleted from disk1, disk2, disk3\n"
        assert "t/a" not in cli.stored("disk3")

    def test_a_tombstone_on_enough_others_finishes_it(self, cli: Cli) -> None:
        """It says so, and repair does it."""
        cli("run", "tree")
        done = cli("rm", "t/a", env=cli.break_third())
        assert "a tombstone on the others keeps it deleted" in done.out
        assert cli("repair").code == 0
        assert "t/a" not in cli.stored("disk3")

    def test_without_a_tombstone_it_is_unknown(self, cli: Cli) -> None:
        """Two of three say that it is not there, and the third may have it."""
        done = cli("rm", "t/a", env=cli.break_third())
        assert done.code == 1
        assert "nothing else deletes it there" in done.out


class TestConfig:
    """`config check`, `show`, `schema`."""

    def test_check(self, cli: Cli) -> None:
        """Counts of backends, sets and jobs; as JSON their names."""
        assert cli("config", "check").out == "fsbackup.yaml: ok: 3 backends, 1 replication set, 2 jobs\n"
        assert cli("config", "check", "--json").json() == {
            "file": "fsbackup.yaml",
            "ok": True,
            "backends": list(DISKS),
            "replication": ["triple"],
            "jobs": ["tree", "note"],
            "postgres": [],
            "notes": [],
        }

    def test_a_set_whose_writers_do_not_exclude_each_other_is_noted(self, cli: Cli) -> None:
        """With what that costs; it is no mistake."""
        config = (cli.home / "fsbackup.yaml").read_text()
        (cli.home / "fsbackup.yaml").write_text(config.replace("min_copies: 2", "min_copies: 1"))
        done = cli("config", "check")
        assert done.code == 0
        assert "note: replication.triple: min_copies 1 is no majority of 3 backends" in done.out
        assert "with min_copies 2 one of them is refused" in done.out
        assert len(cli("config", "check", "--json").json()["notes"]) == 1

    def test_sets_that_share_a_backend_are_noted(self, cli: Cli) -> None:
        """Each takes what is stored there for its own."""
        config = (cli.home / "fsbackup.yaml").read_text()
        (cli.home / "fsbackup.yaml").write_text(
            config.replace("jobs:", "  pair: {backends: [disk2, disk3]}\njobs:")
        )
        assert "note: replication.triple and replication.pair share disk2, disk3" in cli("config", "check").out

    def test_every_problem_is_printed_on_its_own_line(self, cli: Cli) -> None:
        """File, line and field, in the form that editors parse."""
        (cli.home / "bad.yaml").write_text("version: 1\nbackends:\n  a: {type: local, pth: /tmp}\njobs: 3\n")
        done = cli("config", "check", "-c", "bad.yaml", "--json")
        assert done.code == 2
        lines = done.err.splitlines()
        assert lines[0].startswith("bad.yaml:3: backends.a.pth: ")
        assert lines[1].startswith("bad.yaml:4: jobs: ")
        assert [each["line"] for each in done.json()["error"]["problems"]] == [3, 4]

    def test_show_masks_secrets(self, cli: Cli) -> None:
        """Text and JSON, with the defaults filled in."""
        (cli.home / "s3.yaml").write_text(
            "version: 1\nbackends:\n  r2: {type: r2, account_id: abc, bucket: bbb,"
            " access_key_id: '${KEY}', secret_access_key: '${SECRET}'}\n"
        )
        secrets = {"KEY": "the-key-id", "SECRET": "the-secret"}
        text = cli("config", "show", "-c", "s3.yaml", env=secrets)
        plain = cli("config", "show", "-c", "s3.yaml", "--json", env=secrets)
        assert text.code == plain.code == 0
        assert plain.json()["backends"]["r2"]["secret_access_key"] == "**********"
        assert "timeout: 1m" in text.out
        assert not any(secret in text.out + plain.out for secret in secrets.values())

    def test_schema(self, cli: Cli) -> None:
        """A JSON Schema, without any configuration."""
        (cli.home / "fsbackup.yaml").unlink()
        assert json.loads(cli("config", "schema").out)["title"] == "fsbackup configuration"
