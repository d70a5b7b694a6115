"""`diagnose`: what each backend can do and cannot, and what it says about itself; nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.backends import GenericStorage
from fsbackup.replication.doctor import Diagnosis, diagnose
from tests.contract.sftpd import running_sftpd
from tests.replication.doctor_helpers import one, open_s3, outcomes
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint, client
from tests.servers.exchange import Exchange
from tests.servers.faults import Fault, FaultProxy, Hold, Stall, Status, fault_proxy

NAMES = ("connect", "list", "write", "read", "create-only", "delete", "clock", "versions")


@pytest.fixture
def bucket(moto: S3Endpoint) -> S3Endpoint:
    """Return an empty bucket."""
    return s3.fresh_bucket(moto)


@pytest.fixture
def proxy(bucket: S3Endpoint) -> Iterator[FaultProxy]:
    """Return a proxy before it."""
    with fault_proxy(bucket) as running:
        yield running


class TestHealthy:
    """Everything works, and nothing is left."""

    @pytest.mark.parametrize("server", ["moto", "seaweedfs", "strict_r2", "strict_b2"])
    def test_s3(self, server: str, request: pytest.FixtureRequest) -> None:
        """Not even a version, a marker or an upload stays; other objects are not touched."""
        endpoint: S3Endpoint = request.getfixturevalue(server)
        if isinstance(endpoint, s3.StrictEndpoint):
            endpoint.control.reset()
        else:
            endpoint = s3.fresh_bucket(endpoint)
        s3.put_bytes(endpoint, "mine/backups/a", b"data")
        found = one(open_s3(endpoint, "mine"))
        assert (found.health, bool(found), found.left_behind) == ("ok", True, None)
        assert tuple(outcomes(found))[:8] == NAMES
        assert set(outcomes(found).values()) == {"ok", "not known"}
        assert all(found[name].outcome == "ok" for name in NAMES)
        assert s3.list_keys(endpoint) == {"mine/backups/a": 4}
        assert s3.list_uploads(endpoint) == []
        if server == "strict_b2":
            assert [version.key for version in s3.list_versions(endpoint)] == ["mine/backups/a"]

    def test_a_disk(self, tmp_path: Path) -> None:
        """It says how much room there is; directories that were made go too."""
        found = one(LocalStorage(tmp_path))
        assert set(outcomes(found).values()) == {"ok"}
        disk = os.statvfs(tmp_path)
        assert f"of {disk.f_blocks * disk.f_frsize / 2**30:,.1f} GiB are free" in found["space"].detail
        assert list(tmp_path.iterdir()) == []

    def test_sftp(self) -> None:
        """Another protocol, which has no words for versions or room."""
        with running_sftpd() as server:
            found = one(GenericStorage(f"{server.url}base", options=server.storage_options))
            left = [path for path in server.directory.rglob("*") if path.is_file()]
        assert (found.health, left) == ("ok", [])
        assert (found["versions"].outcome, found["space"].outcome) == ("not known", "not known")

    def test_a_set_is_its_backends_each_examined_once(self, tmp_path: Path, proxy: FaultProxy) -> None:
        """In their order, and as plain JSON types."""
        disk, cloud = LocalStorage(tmp_path), open_s3(proxy.endpoint, name="cloud")
        found = diagnose([ReplicatedStorage([disk, cloud]), cloud, disk])
        assert [each.backend for each in found] == ["local", "cloud"]
        assert proxy.count("delete") == 1
        told = json.loads(json.dumps([each.as_dict() for each in found]))
        assert told[1]["checks"]["write"] == {**found[1]["write"].as_dict(), "outcome": "ok", "advice": None}
        assert (told[1]["health"], told[1]["location"]) == ("ok", cloud.location)


class TestNoWayIn:
    """One failed line that says what to do, and no more lines that say it again."""

    @pytest.mark.parametrize("server", ["seaweedfs", "strict_r2", "strict_b2"])
    @pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
    def test_wrong_keys(self, server: str, wrong: str, request: pytest.FixtureRequest) -> None:
        """The bucket is named; the keys are not."""
        endpoint: S3Endpoint = request.getfixturevalue(server)
        keys: dict[str, Any] = {wrong: "wrong-wrong-wrong"}
        bad = replace(endpoint, **keys)
        found = one(open_s3(bad))
        assert outcomes(found) == {"connect": "failed", "clock": "ok"}
        assert (found.health, bool(found), found.left_behind) == ("failed", False, None)
        assert repr(endpoint.bucket) in str(found["connect"].advice)
        told = f"{found!r}{found.as_dict()}"
        assert not any(each in told for each in (bad.access_key_id, bad.secret_access_key))

    def test_unauthorized_at_r2(self, strict_r2: s3.StrictEndpoint) -> None:
        """An answer that has several causes: the likely ones are named."""
        with fault_proxy(strict_r2) as proxy:
            proxy.add(Status(401, "Unauthorized"))
            found = one(open_s3(proxy.endpoint))
        assert "Unauthorized" in found["connect"].detail
        for cause in ("token covers the bucket", "account id", "checksum headers"):
            assert cause in str(found["connect"].advice)

    @pytest.mark.parametrize("server", ["moto", "seaweedfs", "strict_r2", "strict_b2"])
    def test_missing_bucket(self, server: str, request: pytest.FixtureRequest) -> None:
        """It is not there, which no other line could add to."""
        found = one(open_s3(replace(request.getfixturevalue(server), bucket="no-such-bucket")))
        assert outcomes(found) == {"connect": "failed"}
        assert "bucket" in found["connect"].detail
        assert "create the bucket" in str(found["connect"].advice)

    def test_closed_port(self, bucket: S3Endpoint) -> None:
        """Nobody listens."""
        with s3.unreachable(bucket) as endpoint:
            found = one(open_s3(endpoint, timeout=1))
        assert outcomes(found) == {"connect": "failed"}
        assert endpoint.endpoint_url in found["connect"].detail
        assert "network" in str(found["connect"].advice)

    def test_a_disk_that_is_not_mounted(self, tmp_path: Path) -> None:
        """The directory is not made."""
        found = one(LocalStorage(tmp_path / "disk/base", create=False))
        assert outcomes(found) == {"connect": "failed"}
        assert "mounted" in str(found["connect"].advice)
        assert list(tmp_path.iterdir()) == []


class TestSilence:
    """Silence costs the silent one's own timeout, once."""

    def test_a_black_hole(self, tmp_path: Path, proxy: FaultProxy) -> None:
        """It is asked one question, and the others are examined as ever."""
        proxy.add(Stall())
        disk, hole = diagnose([LocalStorage(tmp_path), open_s3(proxy.endpoint, timeout=0.5)])
        assert (disk.health, outcomes(hole)) == ("ok", {"connect": "failed"})
        assert {each.operation for each in proxy.requests} == {"list"}

    def test_others_do_not_wait_for_it(self, proxy: FaultProxy, bucket: S3Endpoint) -> None:
        """One is examined to its end while the other is still silent."""
        hold = proxy.add(Hold(), on="list", times=1)
        other = s3.fresh_bucket(bucket)
        found: list[Diagnosis] = []
        with fault_proxy(other) as second:
            last = second.add(Hold("after"), on="delete", times=1)
            backends = [open_s3(proxy.endpoint, name="slow"), open_s3(second.endpoint, name="quick")]
            running = threading.Thread(target=lambda: found.extend(diagnose(backends)))
            running.start()
            hold.wait_reached()
            last.wait_reached()  # the quick one is at its end
            assert proxy.count() == 1
            last.release()
            hold.release()
            running.join()
        assert [(each.backend, each.health) for each in found] == [("slow", "ok"), ("quick", "ok")]

    def test_one_that_falls_silent_midway(self, proxy: FaultProxy, bucket: S3Endpoint) -> None:
        """It is not asked on, but what may have been stored is removed."""
        proxy.add(Stall(answer_bytes=0), on="put_object")  # the server has stored it
        proxy.add(Stall(), on="head")  # and does not tell
        found = one(open_s3(proxy.endpoint, timeout=3))
        assert found.health == "failed"
        assert "no byte moved" in found["write"].detail
        assert found["read"].outcome == "failed"
        assert proxy.count("get") == 1  # of the marker
        assert s3.list_keys(bucket) == {}
        assert found.left_behind is None


class _Rewrite(Fault):
    """Changes a header of the answer, or its body."""

    def __init__(self, *, date: str | None = None, body: Callable[[bytes], bytes] | None = None) -> None:
        super().__init__()
        self._date, self._change = date, body

    async def on_answer(self, exchange: Exchange) -> None:
        self.strike()
        if self._date:
            exchange.answer.replace("Date", self._date)
        if self._change:
            exchange.give_answer(self._change(await exchange.take_answer()))


def http_date(**off: float) -> str:
    """Return the time so far from now."""
    return format_datetime(datetime.now(UTC) + timedelta(**off), usegmt=True)


class TestPlace:
    """What the place says of itself."""

    @pytest.mark.parametrize(
        ("off", "outcome", "word"),
        [
            ({"hours": 2, "seconds": 5}, "warning", "2 h 0 min ahead"),
            ({"minutes": -20}, "warning", "20 min behind"),
            ({"minutes": 4}, "ok", " s apart"),
        ],
    )
    def test_clock(self, proxy: FaultProxy, off: dict[str, float], outcome: str, word: str) -> None:
        """By the time that the service tells with every answer."""
        proxy.add(_Rewrite(date=http_date(**off)))
        found = one(open_s3(proxy.endpoint))
        assert found["clock"].outcome == outcome
        assert word in found["clock"].detail
        assert ("NTP" in str(found["clock"].advice)) == (outcome == "warning")

    def test_a_clock_that_keeps_us_out(self, proxy: FaultProxy) -> None:
        """A refusal tells the time too."""
        proxy.add(Status(403, "RequestTimeTooSkewed", {"Date": http_date(hours=-1)}))
        found = one(open_s3(proxy.endpoint))
        assert outcomes(found) == {"connect": "failed", "clock": "warning"}
        assert "clock" in str(found["connect"].advice)
        assert "behind" in found["clock"].detail

    def test_versions_that_a_delete_only_hides(self, bucket: S3Endpoint) -> None:
        """Of our own object no bytes stay."""
        client(bucket).put_bucket_versioning(Bucket=bucket.bucket, VersioningConfiguration={"Status": "Enabled"})
        found = one(open_s3(bucket))
        assert (found.health, found["versions"].outcome) == ("limited", "warning")
        assert "lifecycle rule" in str(found["versions"].advice)
        assert [version.size for version in s3.list_versions(bucket) if version.size is not None] == []

    @pytest.mark.parametrize("age", [0, 3])
    def test_unfinished_uploads(self, proxy: FaultProxy, bucket: S3Endpoint, age: int) -> None:
        """Counted below our own prefix; only old ones are a problem."""
        for key in ("mine/a", "mine/b", "theirs/c"):
            client(bucket).create_multipart_upload(Bucket=bucket.bucket, Key=key)
        begun = (datetime.now(UTC) - timedelta(days=age)).strftime("<Initiated>%Y-%m-%dT%H:%M:%S.000Z<").encode()
        proxy.add(_Rewrite(body=lambda body: re.sub(rb"<Initiated>[^<]*<", begun, body)), on="list_uploads")
        found = one(open_s3(proxy.endpoint, "mine"))
        assert ("uploads" in outcomes(found)) == bool(age)
        if age:
            assert found["uploads"].outcome == "warning"
            assert "2 multipart uploads are unfinished, the oldest is 3.0 days old" in found["uploads"].detail
        assert len(s3.list_uploads(bucket)) == 3

    @pytest.mark.parametrize(
        ("rule", "outcome"),
        [
            ({"Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}, "warning"),
            ({"Filter": {"Prefix": "mine/back"}, "Expiration": {"Days": 30}}, "warning"),
            ({"Filter": {"Prefix": "theirs/"}, "Expiration": {"Days": 30}}, "ok"),
            ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 30}}, "ok"),
            ({"Filter": {"Prefix": ""}, "Expiration": {"Days": 30}, "Status": "Disabled"}, "ok"),
            ({"Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}}, "ok"),
        ],
    )
    def test_lifecycle_rules(self, bucket: S3Endpoint, rule: dict[str, Any], outcome: str) -> None:
        """One that deletes what we store is a danger; others are not."""
        rules = {"Rules": [{"ID": "one", "Status": "Enabled", **rule}]}
        client(bucket).put_bucket_lifecycle_configuration(Bucket=bucket.bucket, LifecycleConfiguration=rules)
        found = one(open_s3(bucket, "mine"))
        assert found["rules"].outcome == outcome
        assert ("after 30 days" in found["rules"].detail) == (outcome == "warning")

    def test_what_earlier_runs_left(self, tmp_path: Path) -> None:
        """Only what no run can still be using."""
        own = tmp_path / ".fsbackup"
        own.mkdir()
        for name, age in (("doctor-old", 7200), ("doctor-new", 10)):
            (own / name).touch()
            os.utime(own / name, (time.time() - age,) * 2)
        found = one(LocalStorage(tmp_path))
        assert (found.health, found["list"].outcome) == ("limited", "warning")
        assert "left 1 of their objects, the first is .fsbackup/doctor-old" in found["list"].detail
        assert sorted(path.name for path in own.iterdir()) == ["doctor-new", "doctor-old"]
