"""`fsbackup doctor` as a real process: its table, its advice, its exit code."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.cli_helpers import TIMEOUT, Cli
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Hold, Status, fault_proxy
from tests.servers.operations import Operation

CONFIG = """
version: 1
backends:
  disk: {{type: local, path: disk1}}
  cloud:
    type: s3
    endpoint_url: {url}
    bucket: {bucket}
    access_key_id: {id}
    secret_access_key: {secret}
replication: {{pair: {{backends: [disk, cloud], min_copies: 1}}}}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return the command line in a directory of its own."""
    return Cli(tmp_path)


def write_config(cli: Cli, endpoint: S3Endpoint) -> None:
    """Write the configuration of a disk and a bucket."""
    (cli.home / "fsbackup.yaml").write_text(
        CONFIG.format(
            url=endpoint.endpoint_url,
            bucket=endpoint.bucket,
            id=endpoint.access_key_id,
            secret=endpoint.secret_access_key,
        )
    )


def test_help(cli: Cli) -> None:
    """In the group "Inspect", with its own examples."""
    group = cli("--help").out.partition("\nInspect\n")[2].partition("\n\n")[0]
    assert "\n  doctor " in group
    assert "fsbackup doctor r2" in cli("doctor", "--help").out.partition("examples:")[2]


class TestHealthy:
    """All checks pass: exit code 0."""

    def test_a_table_and_a_verdict(self, cli: Cli) -> None:
        """Every backend of the configuration, each with its lines; nothing on standard error or on the disks."""
        done = cli("doctor")
        assert (done.code, done.err) == (0, "")
        head, *lines = done.out.splitlines()
        assert head.split() == ["backend", "check", "outcome", "found"]
        assert [line.split()[0] for line in lines if " connect " in line] == ["disk1", "disk2", "disk3"]
        assert lines[-1] == "ok: 3 backends checked; all checks passed"
        assert not [path for path in cli.home.glob("disk*/**/*") if path.is_file()]

    def test_selected_backends(self, cli: Cli) -> None:
        """In the order given, each once."""
        done = cli("doctor", "disk3", "disk1", "disk3")
        assert [line.split()[0] for line in done.out.splitlines() if " connect " in line] == ["disk3", "disk1"]
        found = cli("doctor", "disk3", "disk1", "--json").json()
        assert (found["health"], list(found["backends"])) == ("ok", ["disk3", "disk1"])
        assert found["backends"]["disk3"]["checks"]["read"]["outcome"] == "ok"

    def test_quiet_is_silent(self, cli: Cli) -> None:
        """For cron."""
        assert cli("doctor", "-q").out == ""


class TestProblems:
    """Exit code 1 if a check failed, 3 if a backend is limited; with advice."""

    def test_one_of_three_failed(self, cli: Cli) -> None:
        """The others are checked nevertheless."""
        done = cli("doctor", env=cli.break_third())
        assert done.code == 1
        *_, problem, verdict = done.out.splitlines()
        assert problem.startswith(f"disk3: connect: failed: {cli.home}/no-directory/disk3")
        assert verdict == "failed: 3 backends checked; failed: disk3"
        assert done.out.count("every byte came back") == 2

    def test_quiet_prints_problems_only(self, cli: Cli) -> None:
        """The same lines, without the table."""
        done = cli("doctor", "-q", env=cli.break_third())
        assert (done.code, len(done.out.splitlines())) == (1, 2)

    def test_limited(self, cli: Cli, moto: S3Endpoint) -> None:
        """Credentials that may not delete: text and JSON contain the name of the object that stays."""
        bucket = s3.fresh_bucket(moto)
        with fault_proxy(bucket) as proxy:
            write_config(cli, proxy.endpoint)
            proxy.add(Status(403, "AccessDenied"), on="delete")
            text, document = cli("doctor"), cli("doctor", "--json")
        assert (text.code, document.code) == (3, 3)
        assert text.out.splitlines()[-1] == "limited: 2 backends checked; limited: cloud"
        cloud = document.json()["backends"]["cloud"]
        assert cloud["checks"]["delete"]["outcome"] == "not allowed"
        left = [key for key in s3.list_keys(bucket) if key in text.out or key == cloud["left_behind"]]
        assert len(left) == len(s3.list_keys(bucket)) == 2

    def test_limited_and_failed(self, cli: Cli) -> None:
        """The worst health is the result, and the verdict names both backends."""
        (cli.home / "disk1").symlink_to("nowhere")
        old = cli.home / "disk2/.fsbackup/doctor-old"
        old.parent.mkdir(parents=True)
        old.touch()
        os.utime(old, (0, 0))
        done = cli("doctor")
        assert done.code == 1
        assert done.out.splitlines()[-1] == "failed: 3 backends checked; failed: disk1; limited: disk2"

    @pytest.mark.parametrize("command", [("doctor", "nope"), ("doctor", "-c", "nope.yaml"), ("doctor", "--nope")])
    def test_wrong_usage(self, cli: Cli, command: tuple[str, ...]) -> None:
        """Exit code 2, and nothing is created."""
        done = cli(*command)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
        assert not (cli.home / "disk1").exists()
        if command[1] == "nope":
            assert "disk1, disk2, disk3" in done.err

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_no_secret_in_any_output(self, cli: Cli, seaweedfs: S3Endpoint, form: str) -> None:
        """Wrong credentials, at the highest verbosity."""
        write_config(cli, seaweedfs)
        config = cli.home / "fsbackup.yaml"
        config.write_text(config.read_text().replace(seaweedfs.secret_access_key, "the-wrong-secret/with+signs"))
        done = cli("doctor", "-vv", "--log-format", form, *(["--json"] if form == "json" else []))
        assert done.code == 1
        assert "SignatureDoesNotMatch" in done.out
        for secret in ("the-wrong-secret", seaweedfs.access_key_id):
            assert secret not in done.out + done.err


@pytest.mark.parametrize(("operation", "when"), [("get", "before"), ("put_object", "after")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(
    cli: Cli, moto: S3Endpoint, operation: Operation, when: str, number: signal.Signals, code: int
) -> None:
    """The test object is deleted, whether its upload was confirmed or its answer was still pending."""
    bucket = s3.fresh_bucket(moto)
    with fault_proxy(bucket) as proxy:
        write_config(cli, proxy.endpoint)
        hold = proxy.add(Hold(when), on=operation, key="doctor-")  # type: ignore[arg-type]
        with cli.started("doctor") as process:
            hold.wait_reached()
            assert len(s3.list_keys(bucket)) == 1
            process.send_signal(number)
            assert process.wait(TIMEOUT) == code
        assert s3.list_keys(bucket) == {}
        assert not [path for path in cli.home.glob("disk1/**/*") if path.is_file()]
        proxy.clear()
