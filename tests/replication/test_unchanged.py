"""An unchanged run asks for listings only; whatever a listing shows changed is looked at, and made right."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup import clock, seen
from fsbackup.replication.batch import LIST_FROM, BatchItem
from fsbackup.seen import Seen
from fsbackup.stages import Stages
from tests.replication.raw_replicas import manifest_name
from tests.replication.rig import ReplicaRig
from tests.replication.test_repair import switched_off

#: Files of a batch that is large enough to be listed first.
COUNT = LIST_FROM
Run = Callable[..., Counter[str]]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds by which the clock is ahead, an hour; files count as unchanged for long at once."""
    monkeypatch.setattr(seen, "SETTLED_NS", 0)
    now, ahead = clock.now, [3600.0]
    monkeypatch.setattr(clock, "now", lambda: now() + ahead[0])
    return ahead


@pytest.fixture
def paths(rig: ReplicaRig) -> list[Path]:
    """Return small files, each of other content."""
    folder = rig.tmp / "many"
    folder.mkdir()
    found = [folder / f"{number:02}.bin" for number in range(COUNT)]
    for number, path in enumerate(found):
        path.write_bytes(b"%d" % number * 10)
    return found


@pytest.fixture
def run(rig: ReplicaRig, paths: list[Path]) -> Run:
    """Store the files as a job does.

    Return what the servers were asked, by name and operation, and for how many files something was ``sent``.
    """

    def running(*, believed: bool = True, stages: Stages | None = None) -> Counter[str]:
        for proxy in rig.proxies.values():
            proxy.forget()
        with Seen(rig.tmp / "state", believed=believed) as known:
            suffix = stages.suffix if stages else ""
            items = [BatchItem(path, f"batch/{path.name}{suffix}", seen=known, stages=stages) for path in paths]
            results = list(rig.store().replicate_many(items, overwrite=True))
        assert all(each.report and each.report.status == "complete" for each in results)
        asked = Counter(
            f"{name} {record.operation}" for name, proxy in rig.proxies.items() for record in proxy.requests
        )
        asked["sent"] = sum(1 for each in results if each.report and not each.report.already)
        return +asked

    return running


def only_listed(asked: Counter[str]) -> bool:
    """Return whether nothing was sent, and no object was asked for, but the marker of each bucket."""
    allowed = {
        f"{name} {operation}": count for name in ("r2", "b2") for operation, count in (("list", 2), ("get", 1))
    }
    return all(count <= allowed.get(name, 0) for name, count in asked.items())


@pytest.mark.usefixtures("later")
def test_an_unchanged_run_lists_and_asks_for_nothing_else(run: Run) -> None:
    """From the second time on; `believed=False` (``run --reread``) looks at every object again."""
    assert run()["sent"] == COUNT
    assert run()["r2 head"] == COUNT
    assert only_listed(run())
    assert run(believed=False)["r2 head"] == COUNT
    assert only_listed(run())


@pytest.mark.usefixtures("later")
def test_what_all_replicas_have_is_not_even_opened(
    run: Run, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what has changed, though not in size."""
    run()
    run()
    opened, really = set[str](), os.open

    def opening(path: str | os.PathLike[str], flags: int, *arguments: int, **options: int) -> int:
        opened.add(os.fspath(path))
        return really(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", opening)
    paths[7].write_bytes(b"unchanged?"[: paths[7].stat().st_size])
    assert run()["sent"] == 1
    assert opened & {str(path) for path in paths} == {str(paths[7])}


@pytest.mark.usefixtures("later")
def test_two_files_under_one_key_are_not_taken_for_each_other(
    rig: ReplicaRig, run: Run, paths: list[Path]
) -> None:
    run()
    run()
    with Seen(rig.tmp / "state") as known:
        items = [BatchItem(path, f"batch/{path.name}", seen=known) for path in paths]
        items.insert(0, BatchItem(paths[1], items[0].key, seen=known))
        results = list(rig.store().replicate_many(items))
    assert sum(bool(each.report and each.report.already) for each in results) == COUNT
    [refused] = [each for each in results if not each]
    assert (refused.item.source, refused.item.key) == (paths[1], items[0].key)


@pytest.mark.usefixtures("later")
def test_what_a_listing_shows_changed_is_made_right(rig: ReplicaRig, run: Run, paths: list[Path]) -> None:
    """Lost, replaced, stripped of its manifest, deleted: on one replica each, of an object of its own."""
    run()
    run()
    assert only_listed(run())
    keys = [f"batch/{path.name}" for path in paths]
    local, r2, b2 = (rig.raw_replicas[name] for name in ("local", "r2", "b2"))
    r2.drop(keys[0])
    b2.put(keys[1], b"?" * paths[1].stat().st_size)
    local.drop(manifest_name(keys[2]))
    local.put(keys[3], b"?" * paths[3].stat().st_size)
    os.utime(rig.base / keys[3], (1, 1))
    assert rig.store().remove(keys[4])
    paths[5].write_bytes(b"changed")
    with switched_off(rig, "b2"):  # which keeps what the others have a tombstone of
        assert rig.store(min_copies=2, timeout=1.0).remove(keys[6]).status == "degraded"
    asked = run()
    assert (asked["sent"], asked["r2 head"] < 3 * 7) == (7, True), asked
    for path, key in zip(paths[:8], keys[:8], strict=True):
        assert [raw.provable(key) for raw in (local, r2, b2)] == [path.read_bytes()] * 3, key


def test_what_was_stored_a_moment_ago_is_looked_at_again(run: Run) -> None:
    """Two writes can have one time."""
    run()
    run()
    assert run()["r2 head"] == COUNT


@pytest.mark.usefixtures("later")
def test_what_is_compressed_is_recognised_as_well(run: Run) -> None:
    """Its manifest tells the plaintext."""
    stages = Stages(compress="zstd")
    assert run(stages=stages)["sent"] == COUNT
    run(stages=stages)
    assert only_listed(run(stages=stages))
