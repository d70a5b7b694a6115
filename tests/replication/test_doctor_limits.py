"""`diagnose` where not everything is allowed, or not everything is as it is said to be."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.backends import SingleBackend
from fsbackup.replication.doctor import Diagnosis, diagnose
from tests.replication.doctor_helpers import one, open_s3, outcomes
from tests.replication.rig import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import Corrupt, FaultProxy, Hold, Status, fault_proxy
from tests.servers.operations import Operation

DENIALS: dict[str, tuple[Operation, ...]] = {
    "list": ("list", "list_versions"),
    "list and the bucket": ("list", "list_versions", "head_bucket"),
    "read": ("get", "head"),
    "write": ("put_object", "create_multipart"),
    "delete": ("delete", "delete_objects"),
}


@pytest.fixture
def bucket(moto: S3Endpoint) -> S3Endpoint:
    """Return an empty bucket."""
    return s3.fresh_bucket(moto)


@pytest.fixture
def proxy(bucket: S3Endpoint) -> Iterator[FaultProxy]:
    """Return a proxy before it."""
    with fault_proxy(bucket) as running:
        yield running


class TestNotAllowed:
    """Credentials that may do some things: what is missing is named, and what that means is true."""

    @pytest.mark.parametrize("role", ["moto", "strict_b2"])
    @pytest.mark.parametrize("denied", DENIALS)
    def test_what_it_says_will_work_does(
        self, role: str, denied: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        """The advice is compared with what uploads, restores, deletes and listings really do."""
        endpoint: S3Endpoint = request.getfixturevalue(role)
        if isinstance(endpoint, s3.StrictEndpoint):
            endpoint.control.reset()
            endpoint.control.configure(unavailable_every=0)
        prefix, source = secrets.token_hex(6), tmp_path / "source"
        source.write_bytes(b"content")
        open_s3(endpoint, prefix).upload(source, "old")
        with fault_proxy(endpoint) as proxy:
            for operation in DENIALS[denied]:
                proxy.add(Status(403, "AccessDenied"), on=operation)
            found = one(open_s3(proxy.endpoint, prefix))
            backend = open_s3(proxy.endpoint, prefix)  # a new one, which has not seen the bucket yet
            works = {
                "uploads": bool(ReplicatedStorage([backend]).replicate(source, "new")),
                "restores": backend.download("old", tmp_path / "back"),
                "deletes": backend.delete("old"),
                "listing": _lists(backend),
            }
        name = denied.partition(" ")[0]
        check = found[name]
        assert (found.health, found["connect"].outcome, check.outcome) == ("limited", "ok", "not allowed")
        assert "AccessDenied" in check.detail
        assert (
            works
            == {
                "list": {"uploads": True, "restores": True, "deletes": role != "strict_b2", "listing": False},
                "list and the bucket": {
                    "uploads": False,
                    "restores": True,
                    "deletes": role != "strict_b2",
                    "listing": False,
                },
                "read": {"uploads": False, "restores": False, "deletes": False, "listing": True},
                # Alone it needs no tombstone; then there is nothing left to list.
                "write": {"uploads": False, "restores": True, "deletes": True, "listing": False},
                "delete": {"uploads": True, "restores": True, "deletes": False, "listing": True},
            }[denied]
        )
        assert _PROMISES[denied] in str(check.advice)

    def test_an_object_that_may_not_be_deleted_is_named(self, proxy: FaultProxy, bucket: S3Endpoint) -> None:
        """Where it is, exactly, and what to do."""
        proxy.add(Status(403, "AccessDenied"), on="delete")
        found = one(open_s3(proxy.endpoint, "deep/er"))
        assert found.left_behind is not None
        assert list(s3.list_keys(bucket)) == [f"deep/er/{found.left_behind}"]
        assert f"{found.left_behind} remains" in found["delete"].detail
        assert f"delete {found.left_behind}" in str(found["delete"].advice)

    @pytest.mark.parametrize("denied", ["list", "read"])
    def test_what_can_be_deleted_is(self, proxy: FaultProxy, bucket: S3Endpoint, denied: str) -> None:
        """Whatever else is not allowed."""
        for operation in DENIALS[denied]:
            proxy.add(Status(403, "AccessDenied"), on=operation)
        found = one(open_s3(proxy.endpoint))
        assert (found["delete"].outcome, found.left_behind, s3.list_keys(bucket)) == ("ok", None, {})

    def test_read_only(self, proxy: FaultProxy) -> None:
        """Nothing could be written, so nothing is said of what is written."""
        proxy.add(Status(403, "AccessDenied"), on="put_object")
        proxy.add(Status(403, "AccessDenied"), on="delete")
        found = outcomes(one(open_s3(proxy.endpoint)))
        assert [found[name] for name in ("list", "read", "write")] == ["ok", "ok", "not allowed"]
        assert [found[name] for name in ("create-only", "delete")] == ["not known", "not known"]
        assert proxy.count("delete") == 0

    def test_questions_that_may_not_be_asked_are_no_limit(self, proxy: FaultProxy) -> None:
        """R2's object tokens may not ask about the bucket; backups do not need it."""
        for operation in ("get_versioning", "list_uploads", "other"):
            proxy.add(Status(403, "AccessDenied"), on=operation)
        found = one(open_s3(proxy.endpoint))
        assert found.health == "ok"
        assert "uploads" not in outcomes(found)
        for name in ("versions", "rules"):
            assert found[name].outcome == "not known"
            assert "may not ask" in found[name].detail


_PROMISES = {
    "list": "; uploads and restores do",
    "list and the bucket": "nor do uploads",
    "read": "only listing works",
    "write": "listing and restores do",
    "delete": "uploads and restores do",
}


def _lists(backend: SingleBackend) -> bool:
    try:
        return [entry.key for entry in ReplicatedStorage([backend]).ls()] != []
    except OSError:
        return False


class TestLies:
    """What is reported as done is looked at."""

    def test_other_bytes_come_back(self, proxy: FaultProxy) -> None:
        """One flipped byte."""
        proxy.add(Corrupt(3), on="get")
        found = one(open_s3(proxy.endpoint))
        assert (found.health, found["read"].outcome) == ("failed", "failed")

    def test_a_delete_after_which_it_is_there(self, proxy: FaultProxy, bucket: S3Endpoint) -> None:
        """The service says that it is done, and shows the object still."""
        hold = proxy.add(Hold("after"), on="delete", times=1)
        found: list[Diagnosis] = []
        running = threading.Thread(target=lambda: found.append(one(open_s3(proxy.endpoint))))
        running.start()
        hold.wait_reached()
        [probe] = {each.key for each in proxy.requests if each.operation == "delete"}
        s3.put_bytes(bucket, probe, b"back again")
        hold.release()
        running.join()
        assert (found[0]["delete"].outcome, found[0].left_behind) == ("failed", probe)
        assert "still exists" in found[0]["delete"].detail

    def test_a_condition_that_is_relied_on_and_ignored(self, rclone: S3Endpoint) -> None:
        """A server that is no R2, used as one: creating only what is new replaces what is there."""
        found = one(connect("r2", rclone, secrets.token_hex(6)))
        assert found["create-only"].outcome == "failed"
        assert "replaced" in found["create-only"].detail
        assert found["delete"].outcome == "ok"

    def test_create_only_without_a_condition_that_is_relied_on(
        self, rclone: S3Endpoint, strict_b2: s3.StrictEndpoint
    ) -> None:
        """Ignored, and refused as not implemented: fsbackup asks first."""
        strict_b2.control.reset()
        checks = [one(open_s3(each, "c"))["create-only"] for each in (rclone, strict_b2)]
        assert [check.outcome for check in checks] == ["ok", "ok"]
        assert all("by asking first" in check.detail for check in checks)


_MOUNT = 'mount -t tmpfs -o size=4m tmpfs "$0" && exec "$@"'


def _elsewhere(base: str, *before: str, uid: int = 0) -> dict[str, Any]:
    """Examine a directory in another process, as another user or with something run before."""
    here = Path(__file__).parents[2]
    command = [*before, sys.executable, "-m", "tests.replication.test_doctor_limits", base, str(uid)]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, cwd=here, env={**os.environ, "PYTHONPATH": str(here)}
    ).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def main(base: str, uid: str) -> None:
    """Print the examination of a directory for a user who is not root."""
    diagnose([LocalStorage(tempfile.mkdtemp())])  # whatever is imported late is imported now, while it may be read
    if int(uid) and os.getuid() == 0:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    print(json.dumps(one(LocalStorage(base)).as_dict()))


class TestDisks:
    """Directories that not everything may be done with."""

    @pytest.fixture
    def base(self) -> Iterator[Path]:
        """Return a directory that any user can get to."""
        with tempfile.TemporaryDirectory() as root:
            os.chmod(root, 0o755)
            yield Path(root)
            os.chmod(root, 0o700)

    def test_read_only(self, base: Path) -> None:
        """Listing and reading go on."""
        base.chmod(0o555)
        found = _elsewhere(str(base), uid=65534)
        by_name = {name: check["outcome"] for name, check in found["checks"].items()}
        assert (found["health"], found["left_behind"]) == ("limited", None)
        assert (by_name["list"], by_name["read"], by_name["write"]) == ("ok", "ok", "not allowed")
        assert "write" in found["checks"]["write"]["advice"]
        assert by_name["space"] == "ok"

    def test_unreadable(self, base: Path) -> None:
        """Nothing is allowed: it is of no use, and the advice is about the directory."""
        base.chmod(0)
        found = _elsewhere(str(base), uid=65534)
        assert {name: check["outcome"] for name, check in found["checks"].items()}["connect"] == "failed"
        assert "owner and mode" in found["checks"]["connect"]["advice"]

    def test_nearly_full(self, tmp_path: Path) -> None:
        """A disk of 4 MiB."""
        mount = ("unshare", "--mount", "sh", "-c", _MOUNT, str(tmp_path))
        if subprocess.run([*mount, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
            pytest.skip("needs the right to mount a small disk")
        found = _elsewhere(str(tmp_path), *mount)
        assert (found["health"], found["checks"]["space"]["outcome"]) == ("limited", "warning")
        assert "retention" in found["checks"]["space"]["advice"]


if __name__ == "__main__":
    main(*sys.argv[1:])
