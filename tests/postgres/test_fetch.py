"""What comes out of an archive; and that nothing but proof is ever called absence."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fsbackup.errors import (
    BackendUnavailableError,
    ConfigError,
    FsbackupError,
    IntegrityError,
    NoHealthyReplicaError,
    ObjectNotFoundError,
    WalGapError,
)
from fsbackup.postgres import fetch, push
from tests.postgres.segments import MIB, Clouds, name_of, segment


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """What PostgreSQL gives as %p."""
    return tmp_path / "RECOVERYXLOG"


def test_a_segment_comes_back_whole(clouds: Clouds, target: Path) -> None:
    """Over what is there; from the one cloud, when the other is away."""
    clouds.push(1, 2)
    target.write_bytes(b"of an earlier try")
    fetch(clouds.archive, name_of(1), target)
    assert target.read_bytes() == segment(1)
    clouds.take_away("r2")
    fetch(clouds.archive, name_of(2), target)
    assert target.read_bytes() == segment(2)
    assert list(target.parent.glob("RECOVERYXLOG?*")) == []


def test_a_rotten_copy_is_replaced_by_the_other_and_two_are_an_error(clouds: Clouds, target: Path) -> None:
    """An error, not an absence."""
    clouds.push(1)
    for cloud in ("r2", "b2"):
        (clouds.home / cloud / "pg/shop/wal" / name_of(1)).write_bytes(bytes(MIB))
        if cloud == "r2":
            fetch(clouds.archive, name_of(1), target)
            assert target.read_bytes() == segment(1)
            target.unlink()
    with pytest.raises(IntegrityError):
        fetch(clouds.archive, name_of(1), target)
    assert not target.exists()


def test_the_end_of_the_wal_is_an_absence(clouds: Clouds, target: Path) -> None:
    """Of a segment after the last, and of a timeline that nobody began."""
    clouds.push(1, 2)
    for name in (name_of(3), "00000002.history", name_of(3, timeline=2)):
        with pytest.raises(ObjectNotFoundError):
            fetch(clouds.archive, name, target)
    assert not target.exists()


def test_a_gap_is_no_absence(clouds: Clouds, target: Path) -> None:
    """The later segment is named; what another timeline has is no gap."""
    clouds.push(1, 3)
    clouds.push(9, timeline=2)
    with pytest.raises(WalGapError, match=f"{name_of(2)} is missing .* {name_of(3)} is there"):
        fetch(clouds.archive, name_of(2), target)
    with pytest.raises(ObjectNotFoundError):
        fetch(clouds.archive, name_of(4), target)


def test_a_history_that_is_missing_of_a_timeline_with_segments_is_a_gap(clouds: Clouds, target: Path) -> None:
    """PostgreSQL would stay on the timeline before. The first timeline has none."""
    clouds.push(1)
    clouds.push(2, timeline=2)
    with pytest.raises(WalGapError):
        fetch(clouds.archive, "00000002.history", target)
    with pytest.raises(ObjectNotFoundError):
        fetch(clouds.archive, "00000001.history", target)


def test_what_is_missing_before_a_branch_is_a_gap(clouds: Clouds, target: Path) -> None:
    """No segment of its timeline is behind it, and PostgreSQL would take it for the end, and lose the branch."""
    clouds.push(1)
    clouds.push(4, 5, timeline=2)
    push(clouds.archive, clouds.file("00000002.history", b"1\t0/4000A0\tno recovery target specified\n"))
    history = b"1\t0/4000A0\tno\n2\t0/500100\tno recovery target specified\n"
    push(clouds.archive, clouds.file("00000003.history", history))
    for number in (2, 3):
        with pytest.raises(WalGapError, match=f"{name_of(number)} is missing .* 00000002.history is there"):
            fetch(clouds.archive, name_of(number), target)
    for cloud in ("r2", "b2"):
        for place in ("", ".fsbackup/manifests"):
            (clouds.home / cloud / place / "pg/shop/wal/00000002.history").unlink()
    with pytest.raises(WalGapError, match=r"00000003\.history is there"):
        fetch(clouds.archive, name_of(2), target)
    for number, timeline in ((4, 1), (5, 1), (6, 2)):
        with pytest.raises(ObjectNotFoundError):
            fetch(clouds.archive, name_of(number, timeline=timeline), target)
    assert not target.exists()


def test_a_later_partial_segment_shows_a_gap_and_its_own_does_not(clouds: Clouds, target: Path) -> None:
    clouds.push(1)
    push(clouds.archive, clouds.file(f"{name_of(3)}.partial", segment(3)))
    with pytest.raises(WalGapError):
        fetch(clouds.archive, name_of(2), target)
    with pytest.raises(ObjectNotFoundError):
        fetch(clouds.archive, name_of(3), target)


def test_with_a_cloud_away_nothing_is_absent(clouds: Clouds, target: Path) -> None:
    """It may have what the other lacks; a backend that is trusted by name proves it alone."""
    clouds.push(1, 3)
    clouds.take_away("b2")
    with pytest.raises(NoHealthyReplicaError):
        fetch(clouds.archive, name_of(4), target)
    with pytest.raises(ObjectNotFoundError, match="r2, which is trusted"):
        fetch(clouds.archive, name_of(4), target, trust=["r2"])
    with pytest.raises(FsbackupError) as caught:
        fetch(clouds.archive, name_of(4), target, trust=["b2"])
    assert not isinstance(caught.value, ObjectNotFoundError)
    with pytest.raises(WalGapError):
        fetch(clouds.archive, name_of(2), target, trust=["r2"])
    with pytest.raises(ConfigError, match="no backend 'b3'"):
        fetch(clouds.archive, name_of(4), target, trust=["b3"])


def test_a_cloud_that_cannot_be_listed_may_have_later_segments(
    clouds: Clouds, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it answers that it does not have this one."""
    clouds.push(1)
    archive = clouds.archive

    async def fails(*_: str) -> AsyncIterator[None]:
        raise BackendUnavailableError("no answer", backend="b2")
        yield

    monkeypatch.setattr(archive.store.backends["b2"].store, "list", fails)
    with pytest.raises(NoHealthyReplicaError):
        fetch(archive, name_of(2), target)


def test_an_unmounted_disk_does_not_end_the_wal(clouds: Clouds, target: Path) -> None:
    """An empty directory in its place is no answer."""
    clouds.push(1)
    (clouds.home / "b2").rename(clouds.home / "unmounted")
    (clouds.home / "b2").mkdir()
    with pytest.raises(NoHealthyReplicaError):
        fetch(clouds.archive, name_of(2), target)


def test_a_gap_that_closes_is_waited_for(clouds: Clouds, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that are pushed in parallel arrive in any order."""
    clouds.push(1, 2, 3)
    missing = clouds.home / "missing"
    there = [clouds.home / cloud / "pg/shop/wal" / name_of(2) for cloud in ("r2", "b2")]
    for path in there:
        path.rename(missing)
    records = [clouds.home / cloud / ".fsbackup/manifests/pg/shop/wal" / name_of(2) for cloud in ("r2", "b2")]
    hidden = [path.rename(path.with_name("hidden")) for path in records]

    async def arrive(_seconds: float) -> None:
        for path, record, back in zip(there, hidden, records, strict=True):
            path.write_bytes(missing.read_bytes())
            record.rename(back)

    monkeypatch.setattr("fsbackup.postgres.wal_fetch.asyncio.sleep", arrive)
    fetch(clouds.archive, name_of(2), target, patience=30.0)
    assert target.read_bytes() == segment(2)


def test_a_segment_that_nothing_proves_is_not_given_out(clouds: Clouds, target: Path) -> None:
    """Its manifests are gone: the bytes may be any."""
    clouds.push(1)
    for cloud in ("r2", "b2"):
        (clouds.home / cloud / ".fsbackup/manifests/pg/shop/wal" / name_of(1)).unlink()
    with pytest.raises(IntegrityError, match="no manifest"):
        fetch(clouds.archive, name_of(1), target)
    assert not target.exists()
