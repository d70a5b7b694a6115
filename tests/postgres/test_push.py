"""What goes into an archive, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.errors import ConflictError, FsbackupError, SourceError
from fsbackup.postgres import Archive, push
from tests.postgres.segments import MIB, OTHER, OURS, Clouds, name_of, segment
from tests.replication.rig import connect
from tests.servers import s3
from tests.servers.endpoint import S3Endpoint
from tests.servers.faults import fault_proxy


def test_each_kind_of_file_is_stored_under_its_own_name(clouds: Clouds) -> None:
    """On both disks, as plain files that `cp` restores; and whose they are, said once."""
    files = {
        name_of(1): segment(1),
        f"{name_of(2)}.partial": segment(2),
        f"{name_of(1)}.00000028.backup": b"START WAL LOCATION: 0/100028\n",
        "00000002.history": b"1\t0/200000\tno recovery target specified\n",
    }
    for name, data in files.items():
        assert push(clouds.archive, clouds.file(name, data)).status == "complete"
    whose = {"system_identifier": str(OURS), "segment_size": MIB}
    for cloud in ("r2", "b2"):
        stored = clouds.stored(cloud)
        assert json.loads(stored.pop("cluster.json")) == whose
        assert stored == {f"wal/{name}": data for name, data in files.items()}


def test_the_same_again_is_success_and_other_content_is_not(clouds: Clouds) -> None:
    """PostgreSQL hands on a segment again after a crash; a second primary of the timeline has another one."""
    path = clouds.file(name_of(1), segment(1))
    assert push(clouds.archive, path)
    assert push(clouds.archive, path).already
    path.write_bytes(segment(1, body=b"other"))
    report = push(clouds.archive, path)
    assert not report
    error = report.errors["r2"]
    assert isinstance(error, ConflictError)
    assert f"other content under {name_of(1)}, stored " in str(error)
    assert str(path) in str(error)
    assert clouds.stored("b2")[f"wal/{name_of(1)}"] == segment(1)


def test_one_cloud_away_is_degraded_and_the_repetition_fills_it(clouds: Clouds) -> None:
    """0 for PostgreSQL: what it waits for is `min_copies`."""
    clouds.push(1)
    clouds.take_away("b2")
    path = clouds.file(name_of(2), segment(2))
    assert push(clouds.archive, path).status == "degraded"
    clouds.bring_back("b2")
    assert push(clouds.archive, path).status == "complete"
    assert clouds.stored("b2")[f"wal/{name_of(2)}"] == segment(2)


def test_too_few_copies_are_failure(clouds: Clouds) -> None:
    both = replace(clouds, min_copies=2)
    both.push(1)
    both.take_away("b2")
    assert not push(both.archive, both.file(name_of(2), segment(2)))


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("postgresql.conf", b"x", "no name of a WAL file"),
        (name_of(2), segment(2)[:-1], "it has 1,048,575 bytes"),
        (name_of(2), b"", "its first page is no page of WAL"),
        (name_of(2), bytes(MIB), "its first page is no page of WAL"),
        (name_of(2), segment(3), "it begins at 0x300000 of the WAL, not at 0x200000"),
        (name_of(2), segment(2, timeline=3), "its first page is of timeline 3"),
        (name_of(2), segment(2, size=3 * MIB), "segments have 3,145,728 bytes"),
        (f"{name_of(2)}.partial", segment(3), "it begins at"),
    ],
)
def test_what_is_not_the_segment_that_its_name_says_is_not_stored(
    clouds: Clouds, name: str, data: bytes, problem: str
) -> None:
    """A truncated file, one of zeros, a segment under another's name."""
    clouds.push(1)
    with pytest.raises(SourceError, match=problem):
        push(clouds.archive, clouds.file(name, data))
    assert set(clouds.stored("r2")) == {"cluster.json", f"wal/{name_of(1)}"}


def test_the_first_segment_of_a_timeline_may_say_the_one_before(clouds: Clouds) -> None:
    """PostgreSQL copies the beginning of the segment in which it branched off."""
    path = clouds.file(name_of(5, timeline=2), segment(5, timeline=1))
    assert push(clouds.archive, path)


def test_another_cluster_is_refused_and_both_are_named(clouds: Clouds) -> None:
    """A new cluster under an old name must not write into the archive that the old one is restored from."""
    clouds.push(1)
    path = clouds.file(name_of(2), segment(2, system=OTHER))
    with pytest.raises(ConflictError, match=f"cluster {OURS} .* cluster {OTHER}"):
        push(clouds.archive, path)
    assert f"wal/{name_of(2)}" not in clouds.stored("r2")


def test_a_first_push_into_an_archive_with_segments_is_refused(clouds: Clouds) -> None:
    """Nothing says any more whose they are."""
    clouds.push(1, 7)
    for cloud in ("r2", "b2"):
        clouds.lose(cloud, "cluster.json")
    with pytest.raises(ConflictError, match=f"has WAL, such as {name_of(1)}, but nothing says of which cluster"):
        push(clouds.archive, clouds.file(name_of(8), segment(8)))


def test_whose_archive_it_is_must_be_known(clouds: Clouds) -> None:
    """One cloud lost it and the other is away: that proves nothing, so nothing is stored."""
    clouds.push(1)
    clouds.lose("r2", "cluster.json")
    clouds.take_away("b2")
    with pytest.raises(FsbackupError):
        push(clouds.archive, clouds.file(name_of(2), segment(2)))
    assert f"wal/{name_of(2)}" not in clouds.stored("r2")


def test_a_segment_is_one_request_to_a_bucket(moto: S3Endpoint, tmp_path: Path) -> None:
    """Data and record together. A new process asks a handful of questions before it, and none after."""
    operations: list[list[str]] = []
    with fault_proxy(s3.fresh_bucket(moto)) as proxy:
        for number in (1, 2, 3):
            if number < 3:
                archive = Archive(ReplicatedStorage([connect("r2", proxy.endpoint, "")]), "pg/shop")
            name = f"0000000100000000{number:08X}"
            path = tmp_path / name
            path.write_bytes(segment(int(name, 16) & 0xFF, size=16 * MIB))
            before = len(proxy.requests)
            assert push(archive, path)
            operations.append([each.operation for each in proxy.requests[before:]])
    _, first, again = operations
    assert [each for each in first if each not in ("get", "head", "head_bucket", "list")] == ["put_object"]
    assert first[-1] == again[-1] == "put_object"
    assert len(first) <= 6
    assert len(again) <= 3
