"""Two writers, or a writer and a reader, of one key at once: a conflict is reported, never hidden."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from fsbackup import LocalStorage, ReplicatedStorage
from fsbackup.engine.download import ObjectReader
from fsbackup.engine.results import Report
from fsbackup.errors import NoHealthyReplicaError
from tests.replication.raw_replicas import manifest_name, proves
from tests.replication.rig import ReplicaRig, connect, content
from tests.servers.faults import Hold

KEY = "backups/contested"
ONE, TWO = content(5000, seed=1), content(5000, seed=2)


class Writer(threading.Thread):
    """One upload in a thread of its own, with backends of its own."""

    def __init__(self, rig: ReplicaRig, data: bytes, names: tuple[str, ...], *, overwrite: bool = False) -> None:
        super().__init__()
        self._store = rig.store(names=names)
        self._path = rig.file(data, f"source-{data[:4].hex()}")
        self._overwrite = overwrite
        self.data = data
        self.report: Report | None = None

    def run(self) -> None:
        self.report = self._store.replicate(self._path, KEY, overwrite=self._overwrite)


def assert_agreed_or_reported(
    rig: ReplicaRig, writers: list[Writer], names: tuple[str, ...], *, create: bool = True
) -> None:
    """Check every replica: its data matches its manifest, or a writer got a `ConflictError` for it.

    Of two creators at most one may get success; of two replacements the later one counts.
    """
    for name in names:
        results = []
        for writer in writers:
            assert writer.report is not None
            results.append(writer.report.replicas[name])
        data, record = rig.raw_replicas[name].get(KEY), rig.raw_replicas[name].manifest(KEY)
        assert data in (ONE, TWO), name
        proven = record is not None and proves(record, data)
        reported = any(result.error_type == "ConflictError" for result in results)
        assert proven or reported, f"{name}: data and manifest disagree, and no writer got a conflict"
        for writer, result in zip(writers, results, strict=True):
            if create and result.ok:
                assert writer.data == data, f"{name}: a writer got success, and its bytes are not stored"


@pytest.mark.usefixtures("other_machines")
@pytest.mark.each_choice
@pytest.mark.parametrize("role", ["r2", "b2"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "overwrite"])
@pytest.mark.parametrize("step", ["inside", KEY, manifest_name(KEY)], ids=["inside", "data", "manifest"])
def test_the_second_writer_overtakes_the_first(
    contested: ReplicaRig, role: str, overwrite: bool, step: str
) -> None:
    """One writer is held before a step while the other runs to its end: success only for bytes that are there."""
    rig = contested if step == "inside" else contested.beside()
    step = KEY if step == "inside" else step
    if overwrite:
        rig.store(names=(role,)).replicate(rig.file(content(77), "first"), KEY)
    first, second = (Writer(rig, data, (role,), overwrite=overwrite) for data in (ONE, TWO))
    hold = rig.proxies[role].add(Hold("before"), on="put_object", key=f"{rig.prefix}/{step}", times=1)
    first.start()
    hold.wait_reached()
    second.start()
    second.join(20)
    hold.release()
    first.join(20)
    assert_agreed_or_reported(rig, [first, second], (role,), create=not overwrite)


@pytest.mark.usefixtures("other_machines")
def test_two_threads_create_one_key_many_times(contested: ReplicaRig) -> None:
    """In any interleaving of two creators on three replicas, no replica disagrees with itself silently."""
    rig, names = contested, ("local", "r2", "b2")
    for _ in range(8):
        writers = [Writer(rig, data, names) for data in (ONE, TWO)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(30)
        assert_agreed_or_reported(rig, writers, names)
        assert not all(writer.report for writer in writers)
        for raw in rig.raw_replicas.values():
            for name in raw.names():
                raw.drop(name)


@pytest.mark.parametrize("role", ["r2", "s3"])
def test_content_stored_after_the_survey_is_not_replaced(rig: ReplicaRig, role: str) -> None:
    """Another writer stores between the survey and the PUT: the service refuses it, without a further request."""
    store = ReplicatedStorage([connect(role, rig.endpoints["r2"], rig.prefix)])
    reports: list[Report] = []
    hold = rig.proxies["r2"].add(Hold(), on="put_object", key=f"{rig.prefix}/{KEY}")
    thread = threading.Thread(target=lambda: reports.append(store.replicate(rig.file(ONE), KEY)))
    thread.start()
    hold.wait_reached()
    rig.raw_replicas["r2"].put(KEY, TWO)
    heads = rig.proxies["r2"].count("head")
    hold.release()
    thread.join(20)
    assert reports[0].replicas[role].error_type == "ConflictError"
    assert rig.raw_replicas["r2"].everything() == {KEY: TWO}
    assert heads == 1


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_reader_overtaken_by_a_replacement_gets_one_version(rig: ReplicaRig, kind: str) -> None:
    """A reader has the old manifest when a replacement runs from beginning to end: old bytes or new, no error."""
    store = rig.store(names=("r2",))
    store.replicate(rig.file(ONE, "one"), KEY)
    hold = rig.proxies["r2"].add(Hold(), on="get", key=f"{rig.prefix}/{KEY}", times=1)
    target, stream = rig.tmp / "back", io.BytesIO()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            store.restore(KEY, target if kind == "file" else stream)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    hold.wait_reached()
    assert rig.store(names=("r2",)).replicate(rig.file(TWO, "two"), KEY, overwrite=True)
    hold.release()
    thread.join(30)
    assert not failed
    assert (target.read_bytes() if kind == "file" else stream.getvalue()) in (ONE, TWO)


class Replaced:
    """A set on two disks whose object is replaced before each read of its bytes, up to so many times."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch, times: int, stall: float) -> None:
        backends = [LocalStorage(tmp / name, name=name) for name in ("one", "two")]
        self.store = ReplicatedStorage(backends, min_copies=1, name="s", stall_timeout=stall, errors="raise")
        self._target = tmp / "target"
        self._left = iter(range(times))
        self._ranges = ObjectReader.ranges
        self.store.replicate(io.BytesIO(b"first"), KEY)
        monkeypatch.setattr(ObjectReader, "ranges", lambda *args, **options: self._replacing(*args, **options))

    def read(self, how: str) -> bytes:
        """Return the object's bytes, read by one of the ways to read it."""
        if how == "restore":
            self.store.restore(KEY, self._target)
            return self._target.read_bytes()
        return bytes(self.store.read(KEY) if how == "read" else self.store.fs.cat_file(f"s/{KEY}"))

    async def _replacing(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
        if (number := next(self._left, None)) is not None:
            data = io.BytesIO(b"replaced %d" % number)
            await asyncio.to_thread(self.store.replicate, data, KEY, overwrite=True)
        async for each in self._ranges(*args, **options):
            yield each


@pytest.mark.parametrize("how", ["read", "restore", "cat_file"])
def test_a_reader_follows_an_object_that_is_replaced_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """More often than any number allows for, while the time lasts."""
    assert Replaced(tmp_path, monkeypatch, times=8, stall=10).read(how) == b"replaced 7"


@pytest.mark.parametrize("how", ["read", "restore", "cat_file"])
def test_an_object_that_is_replaced_for_ever_is_not_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The reader ends, and says why."""
    with pytest.raises(NoHealthyReplicaError, match="replaced faster than it can be read") as caught:
        Replaced(tmp_path, monkeypatch, times=10_000, stall=0.2).read(how)
    assert "verify" not in str(caught.value)
