"""Two writers, or a writer and a reader, at one key at once: a disagreement is told, never hidden."""

from __future__ import annotations

import threading

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.engine.results import Report
from tests.replication.eyes import manifest_name, proves
from tests.replication.world import World, connect, content
from tests.servers.faults import Hold

KEY = "backups/contested"
ONE, TWO = content(5000, seed=1), content(5000, seed=2)


class Writer(threading.Thread):
    """One upload in a thread of its own, with backends of its own."""

    def __init__(self, world: World, data: bytes, names: tuple[str, ...], *, overwrite: bool = False) -> None:
        super().__init__()
        self._store = world.store(names=names)
        self._path = world.file(data, f"source-{data[:4].hex()}")
        self._overwrite = overwrite
        self.data = data
        self.report: Report | None = None

    def run(self) -> None:
        self.report = self._store.replicate(self._path, KEY, overwrite=self._overwrite)


def told_or_agreed(world: World, writers: list[Writer], names: tuple[str, ...], *, create: bool = True) -> None:
    """Check every replica: its data is what its manifest says, or somebody was told of a conflict there.

    Of two creators at most one may be told that its bytes are stored; of two replacements the later one counts.
    """
    for name in names:
        results = []
        for writer in writers:
            assert writer.report is not None
            results.append(writer.report.replicas[name])
        data, record = world.eyes[name].get(KEY), world.eyes[name].manifest(KEY)
        assert data in (ONE, TWO), name
        whole = record is not None and proves(record, data)
        told = any(result.error_type == "ConflictError" for result in results)
        assert whole or told, f"{name}: data and manifest disagree, and nobody was told"
        for writer, result in zip(writers, results, strict=True):
            if create and result.ok:
                assert writer.data == data, (
                    f"{name}: a writer was told that its bytes are stored, and they are not"
                )


@pytest.mark.parametrize("role", ["r2", "b2"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "overwrite"])
@pytest.mark.parametrize("step", [KEY, manifest_name(KEY)], ids=["data", "manifest"])
def test_the_second_writer_overtakes_the_first(contested: World, role: str, overwrite: bool, step: str) -> None:
    """One writer is held before a step while the other does all: nobody is told of bytes that are not there."""
    world = contested
    if overwrite:
        world.store(names=(role,)).replicate(world.file(content(77), "first"), KEY)
    first, second = (Writer(world, data, (role,), overwrite=overwrite) for data in (ONE, TWO))
    hold = world.proxies[role].add(Hold("before"), on="put_object", key=f"{world.prefix}/{step}", times=1)
    first.start()
    hold.wait_reached()
    second.start()
    second.join(20)
    hold.release()
    first.join(20)
    told_or_agreed(world, [first, second], (role,), create=not overwrite)


def test_two_threads_create_one_key_many_times(contested: World) -> None:
    """In any interleaving of two creators on three replicas, no replica disagrees with itself silently."""
    world, names = contested, ("local", "r2", "b2")
    for _ in range(8):
        writers = [Writer(world, data, names) for data in (ONE, TWO)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(30)
        told_or_agreed(world, writers, names)
        assert not all(writer.report for writer in writers)
        for eye in world.eyes.values():
            for name in eye.names():
                eye.drop(name)


@pytest.mark.parametrize("role", ["r2", "s3"])
def test_what_came_after_the_question_is_not_replaced(world: World, role: str) -> None:
    """Foreign bytes come between a put's question and its write: the service itself refuses, at no extra cost."""
    store = ReplicatedStorage([connect(role, world.endpoints["r2"], world.prefix)])
    reports: list[Report] = []
    hold = world.proxies["r2"].add(Hold(), on="put_object", key=f"{world.prefix}/{KEY}")
    thread = threading.Thread(target=lambda: reports.append(store.replicate(world.file(ONE), KEY)))
    thread.start()
    hold.wait_reached()
    world.eyes["r2"].put(KEY, TWO)
    asked = world.proxies["r2"].count("head")
    hold.release()
    thread.join(20)
    assert reports[0].replicas[role].error_type == "ConflictError"
    assert world.eyes["r2"].everything() == {KEY: TWO}
    assert asked == 1


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_reader_overtaken_by_a_replacement_gets_one_version(world: World, kind: str) -> None:
    """A reader has the old manifest when a replacement runs from beginning to end: old bytes or new, no error."""
    import io

    store = world.store(names=("r2",))
    store.replicate(world.file(ONE, "one"), KEY)
    hold = world.proxies["r2"].add(Hold(), on="get", key=f"{world.prefix}/{KEY}", times=1)
    target, stream = world.tmp / "back", io.BytesIO()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            store.restore(KEY, target if kind == "file" else stream)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    hold.wait_reached()
    assert world.store(names=("r2",)).replicate(world.file(TWO, "two"), KEY, overwrite=True)
    hold.release()
    thread.join(30)
    assert not failed
    assert (target.read_bytes() if kind == "file" else stream.getvalue()) in (ONE, TWO)
