"""How a command ends: its exit code, its error message, and no temp files."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.integration.cli_helpers import TIMEOUT, Cli, is_running, wait_until
from tests.replication.raw_replicas import MARKER, RawDisk, mark
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Hold, fault_proxy


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line in a directory of its own."""
    return Cli(tmp_path)


class TestDegraded:
    """One of three backends is unreachable, min_copies is 2: exit code 3, and what to do."""

    def test_run(self, cli: Cli) -> None:
        """The others hold everything; the verdict names the unreachable backend."""
        done = cli("run", "tree", env=cli.break_third())
        assert done.code == 3
        assert sorted(cli.stored("disk1")) == sorted(cli.stored("disk2")) == ["t/a", "t/b/c", "t/b/d"]
        last = done.out.splitlines()[-1]
        assert last.startswith("degraded: all 3 files are stored, 3 of them not on every backend")
        assert "disk3" in last
        assert "run the job again" in last

    def test_a_job_that_fails_weighs_more(self, cli: Cli) -> None:
        """One job is degraded and the other one fails, whichever comes first."""
        (cli.home / "note").unlink()
        for jobs in (("tree", "note"), ("note", "tree")):
            done = cli("run", *jobs, env=cli.break_third())
            assert done.code == 1
            assert "tree: degraded" in done.out
            assert "note: failed" in done.out

    def test_running_again_sends_only_what_is_missing(self, cli: Cli) -> None:
        """Once the backend is reachable again."""
        cli("run", "tree", env=cli.break_third())
        job = cli("run", "tree", "--json").lines()[-2]
        assert job["status"] == "complete"
        assert [job["backends"][disk]["stored"] for disk in ("disk1", "disk2", "disk3")] == [0, 0, 3]

    @pytest.mark.parametrize(
        "command", [("put", "note", "k"), ("ls",), ("ls", "nothing"), ("stat", "t/a"), ("status",)]
    )
    def test_other_commands(self, cli: Cli, command: tuple[str, ...]) -> None:
        """The same exit code; a missing answer never counts as absence."""
        cli("run", "tree")
        assert cli(*command, env=cli.break_third()).code == 3

    def test_get_is_complete_when_the_bytes_are(self, cli: Cli) -> None:
        """A script must not stop after a successful restore."""
        cli("run", "tree")
        done = cli("get", "t/a", "-", env=cli.break_third())
        assert (done.code, done.out) == (0, "a" * 100)


class TestFailed:
    """Exit code 1, a message without a traceback, and the hint."""

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (("put", "nothing", "k"), "fsbackup: nothing: no such file"),
            (
                ("get", "t/a", "note/x"),
                "fsbackup: restore 't/a': the base directory {home}/note is not a directory",
            ),
        ],
    )
    def test_message(self, cli: Cli, command: tuple[str, ...], message: str) -> None:
        """One line each."""
        cli("run", "tree")
        done = cli(*command)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"{message.format(home=cli.home)}\n"

    def test_a_message_as_json(self, cli: Cli) -> None:
        """A script finds the type and the key on standard output."""
        done = cli("stat", "k", "--json")
        assert done.code == 4
        assert done.json()["error"]["type"] == "ObjectNotFoundError"
        assert done.json()["error"]["key"] == "k"

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (("--json", "put", "note", "../x"), "argument KEY: "),
            (("put", "note", "--json"), "the following arguments are required: KEY"),
            (("puts", "--json"), "invalid choice: 'puts'"),
            (("put", "x", "--json", "--command"), "write -- before the program"),
        ],
    )
    def test_wrong_usage_as_json(self, cli: Cli, command: tuple[str, ...], message: str) -> None:
        """As other errors, also where the command line could not be read to its end."""
        done = cli(*command)
        assert (done.code, message in done.json()["error"]["message"], message in done.err) == (2, True, True), (
            done
        )
        assert done.json()["error"]["type"] == "ConfigError"

    def test_wrong_usage_of_a_program_with_such_an_option(self, cli: Cli) -> None:
        """What follows -- is not for us."""
        done = cli("put", "note", "x", "--command", "--", "program", "--json")
        assert (done.code, done.out) == (2, "")

    @pytest.mark.parametrize("how", [("-vv", ""), ("-q", "1")])
    def test_a_traceback_on_request(self, cli: Cli, how: tuple[str, str]) -> None:
        """With -vv or FSBACKUP_DEBUG."""
        done = cli("stat", "k", how[0], env={"FSBACKUP_DEBUG": how[1]})
        assert done.code == 4
        assert "Traceback" in done.err

    def test_output_that_cannot_be_written(self, cli: Cli) -> None:
        """Standard output redirected to a full disk."""
        with open("/dev/full", "wb") as full, cli.started("config", "schema", stdout=full) as process:
            _, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        assert b"No space left on device" in err


class TestAbsent:
    """Exit code 4 where it is proven that there is nothing, 1 where it is not known."""

    COMMANDS = (
        ("get", "no/such", "x"),
        ("stat", "no/such"),
        ("get", "-r", "no/such", "back"),
        ("verify", "no/such"),
        ("verify", "no/such", "--sample", "1/30"),
        ("status", "no/such"),
        ("status", "no/such", "--json"),
        ("verify",),
        ("status",),
    )

    @staticmethod
    def store(cli: Cli, command: tuple[str, ...]) -> None:
        """Store objects, unless the command is about a whole set."""
        if len(command) > 1:
            cli("run", "tree")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_proven(self, cli: Cli, command: tuple[str, ...]) -> None:
        """All backends answer."""
        self.store(cli, command)
        done = cli(*command)
        assert done.code == 4, done
        assert "no such key" in done.err + done.out or "nothing" in done.err + done.out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_unknown(self, cli: Cli, command: tuple[str, ...]) -> None:
        """Two of three do not."""
        self.store(cli, command)
        for disk in ("disk2", "disk3"):
            shutil.rmtree(cli.home / disk, ignore_errors=True)
            (cli.home / disk).touch()
        assert cli(*command).code == 1

    @pytest.mark.parametrize("command", [("get", "t/a", "x"), ("stat", "t/a")])
    def test_lost_is_not_absent(self, cli: Cli, command: tuple[str, ...]) -> None:
        """It was stored, and nobody deleted it."""
        cli("run", "tree")
        for disk in ("disk1", "disk2", "disk3"):
            (cli.home / disk / "t/a").unlink()
        done = cli(*command)
        assert done.code == 1
        assert "data is gone from every replica" in done.err

    @pytest.mark.parametrize("command", COMMANDS[2:])
    def test_accepted(self, cli: Cli, command: tuple[str, ...]) -> None:
        """With ``--allow-empty``."""
        self.store(cli, command)
        assert cli(*command, "--allow-empty").code == 0

    def test_a_sample_without_an_object_is_not_empty(self, cli: Cli) -> None:
        """Today's share of three objects is seldom one of them."""
        cli("run", "tree")
        assert cli("verify", "--sample", "1/100000").code == 0


class TestStreams:
    """Standard streams and names as a shell or a locale leaves them."""

    @pytest.mark.each_choice
    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
    @pytest.mark.parametrize("command", [("status",), ("get", "t/a", "x"), ("stat", "no/such", "-vv")])
    def test_closed(self, cli: Cli, closed: str, command: tuple[str, ...]) -> None:
        """The exit code is the same, and nothing is written into a file of ours."""
        cli("run", "tree")
        before = cli.stored("disk1")
        script = ["sh", "-c", f'exec "$@" {closed}', "sh", *cli.command(*command)]
        done = subprocess.run(script, cwd=cli.home, env=cli.environ, capture_output=True, timeout=TIMEOUT)
        assert done.returncode == cli(*command).code
        assert b"Traceback" not in done.stdout + (b"" if "-vv" in command else done.stderr)
        assert cli.stored("disk1") == before

    def test_names_are_utf_8_in_any_locale(self, cli: Cli) -> None:
        """A key is the bytes of a name, whatever letters the locale takes them for."""
        (cli.home / "source/ü").write_text("x")
        done = cli("run", "tree", "-v", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
        assert done.code == 0
        assert "t/ü" in done.out
        assert "t/ü" in cli.stored("disk1")


class TestUsage:
    """Exit code 2: nothing was done."""

    @pytest.mark.parametrize(
        "command",
        [
            (),
            ("unknown",),
            ("run",),
            ("run", "--all", "tree"),
            ("run", "nope"),
            ("put", "note"),
            ("put", "note", "a//b"),
            ("put", "note", "../a"),
            ("put", "source", "k"),
            ("put", "note", "k", "--set", "nope"),
            ("put", "k", "--command", "true"),
            ("put", "k", "--command", "--"),
            ("put", "note", "k", "--command", "--", "true"),
            ("put", "a//b", "--command", "--", "true"),
            ("put", "k", "--command", "--timeout", "1", "--", "true"),
            ("put", "note", "k", "--min-size", "1MiB"),
            ("put", "note", "k/{now}"),
            ("put", "note", "k/{now:YYYY}"),
            ("put", "note", "k{now:/%Y/}"),
            ("rm", ""),
            ("rm", "a/"),
            ("get", "k", "-", "--json"),
            ("config", "eat"),
            ("ls", "-c", "nope.yaml"),
            ("ls", "--log-form", "json"),
        ],
    )
    def test_code(self, cli: Cli, command: tuple[str, ...]) -> None:
        """With a message on standard error, without a traceback."""
        done = cli(*command)
        assert done.code == 2, done
        assert done.err
        assert "Traceback" not in done.err
        assert not (cli.home / "disk1").exists()

    def test_without_a_configuration_it_prints_the_paths_it_tried(self, cli: Cli) -> None:
        """And the option that names one."""
        (cli.home / "fsbackup.yaml").unlink()
        done = cli("ls")
        assert done.code == 2
        assert ".config/fsbackup/config.yaml" in done.err
        assert "-c" in done.err

    def test_one_of_several_sets_must_be_chosen(self, cli: Cli) -> None:
        """There is no default."""
        path = cli.home / "fsbackup.yaml"
        path.write_text(path.read_text().replace("jobs:", "  one: {backends: [disk1]}\njobs:"))
        done = cli("ls")
        assert done.code == 2
        assert "triple, one" in done.err
        assert cli("put", "note", "k", "--set", "one").code == 0
        assert not (cli.home / "disk2").exists()


class TestInterrupted:
    """Ctrl-C, SIGTERM, SIGHUP: uploads are aborted, nothing is committed, no temp file stays; one line says so."""

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_a_stream(self, cli: Cli, number: signal.Signals, code: int) -> None:
        """While standard input is open and blocks."""
        with cli.started("put", "-", "big") as process:
            write_all(process, bytes(40 << 20))
            wait_until(cli.temp_files)
            process.send_signal(number)
            assert process.wait(TIMEOUT) == code
            self.assert_nothing_stored(cli, process)

    def test_a_job(self, cli: Cli) -> None:
        """Its source is a FIFO whose writer is still open."""
        (cli.home / "note").unlink()
        os.mkfifo(cli.home / "note")
        with cli.started("run", "note", "-q") as process, (cli.home / "note").open("wb") as writer:
            writer.write(bytes(40 << 20))
            wait_until(cli.temp_files)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
            self.assert_nothing_stored(cli, process)

    def test_a_command(self, cli: Cli) -> None:
        """It ends with us, and what it has started too."""
        script = "sleep 1000 & echo $$ $! > pids; exec head -c 99999999999 /dev/zero"
        with cli.started("put", "k", "--command", "--", "sh", "-c", script) as process:
            wait_until(cli.temp_files)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
            self.assert_nothing_stored(cli, process)
        for pid in (cli.home / "pids").read_text().split():
            wait_until(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]

    @staticmethod
    def assert_nothing_stored(cli: Cli, process: subprocess.Popen[bytes]) -> None:
        """Check the disks, and that standard error has one line."""
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) == 1
        assert cli.temp_files() == []
        assert [cli.stored(f"disk{number}") for number in (1, 2, 3)] == [{}, {}, {}]
        assert not list(cli.home.glob("disk?/.fsbackup/manifests/**/*.json"))

    def test_blocked_standard_output(self, cli: Cli) -> None:
        """It ends at once even while it writes to a full pipe."""
        (cli.home / "note").write_bytes(bytes(8 << 20))
        cli("put", "note", "big")
        with cli.started("get", "big", "-") as process:
            assert process.stdout is not None
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130


def test_ctrl_z_and_fg(cli: Cli, moto: S3Endpoint) -> None:
    """An answer that arrived while the process was stopped for longer than `timeout` is used."""
    with fault_proxy(moto) as proxy:
        backends = {
            "disk1": {"type": "local", "path": "disk1"},
            "cloud": {**proxy.endpoint.backend, "prefix": cli.home.name, "timeout": "3s"},
        }
        config = {"version": 1, "backends": backends, "replication": {"two": {"backends": list(backends)}}}
        (cli.home / "fsbackup.yaml").write_text(yaml.safe_dump(config))
        hold = proxy.add(Hold("after"), on="head", key="/big")
        with cli.started("put", "note", "big") as process:
            hold.wait_reached()
            process.send_signal(signal.SIGSTOP)
            time.sleep(6)
            proxy.clear()
            process.send_signal(signal.SIGCONT)
            assert process.wait(TIMEOUT) == 0
        assert proxy.count("put_object", "/big") == 1, "data and manifest in one, nothing was sent again"


def write_all(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Write all of `data` to standard input, which is unbuffered: a write may be partial."""
    assert process.stdin is not None
    rest = memoryview(data)
    while rest:
        rest = rest[process.stdin.write(rest) :]


def test_a_closed_pipe_is_no_error(cli: Cli) -> None:
    """``fsbackup get … - | head``: no message, and the exit code of SIGPIPE."""
    (cli.home / "note").write_bytes(bytes(8 << 20))
    cli("put", "note", "big")
    with cli.started("get", "big", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(TIMEOUT) == 141
        assert process.stderr.read() == b""


def test_a_terminal_gets_progress_and_a_pipe_does_not(cli: Cli) -> None:
    """One line per backend, erased at the end; standard output has the results only."""
    (cli.home / "note").write_bytes(bytes(8 << 20))
    terminal, other_end = pty.openpty()
    with cli.started("put", "note", "big", stderr=other_end) as process:
        os.close(other_end)
        shown = b""
        while piece := _read(terminal):
            shown += piece
        os.close(terminal)
        out, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert b"disk1" in shown
    assert b"8.0/8.0 MiB" in shown
    assert b"\x1b" not in out
    assert out.splitlines()[-1].startswith(b"complete: ")


def test_a_job_reports_its_success_to_a_terminal(cli: Cli) -> None:
    """Where nobody watches it prints problems only."""
    terminal, other_end = pty.openpty()
    with cli.started("run", "note", stdout=other_end) as process:
        os.close(other_end)
        shown = b""
        while piece := _read(terminal):
            shown += piece
        os.close(terminal)
        assert process.wait(TIMEOUT) == 0
    assert b"note: " in shown
    assert b"complete: 1 file, 6 B; every replica confirmed by 3 backends" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # EIO: on Linux, the other end was closed
        return b""


def test_no_secret_in_any_output(cli: Cli) -> None:
    """An endpoint that refuses connections, the highest verbosity, text and JSON."""
    (cli.home / "s3.yaml").write_text(
        """
version: 1
backends:
  disk: {type: local, path: disk1}
  s3:
    type: s3
    endpoint_url: http://127.0.0.1:9
    bucket: bbb
    access_key_id: "${KEY}"
    secret_access_key: "${SECRET}"
    timeout: 2s
replication: {pair: {backends: [disk, s3], min_copies: 1}}
"""
    )
    RawDisk(cli.home / "disk1").put(MARKER, mark())
    secrets = {"KEY": "the-key-id", "SECRET": "the-secret/with+signs"}
    for form in ("text", "json"):
        done = cli("put", "note", f"k-{form}", "-vv", "-c", "s3.yaml", "--log-format", form, env=secrets)
        assert done.code == 3, done
        assert "s3" in done.err
        assert not any(secret in done.out + done.err for secret in secrets.values())
