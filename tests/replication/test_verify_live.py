"""`verify` beside writers, within its memory, and a share of the objects each day."""

from __future__ import annotations

import io
import json
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.loop import run
from fsbackup.replication import sample
from fsbackup.replication.inspector import Inspector
from fsbackup.replication.sample import Sample, parse_sample
from tests.replication.memory import MemoryStore, backend
from tests.replication.raw_replicas import pending_name, sealed
from tests.replication.rig import MIB, ReplicaRig, content
from tests.servers.faults import Hold

DATA, OTHER = content(2 * MIB + 7), content(2 * MIB + 7, seed=1)


@pytest.mark.parametrize("name", ["r2", "b2"])
def test_an_object_replaced_while_it_is_read_is_not_rotten(rig: ReplicaRig, name: str) -> None:
    """Its bytes are held up until they are another version's: it is inspected again, and all is well."""
    store = rig.store()
    assert store.replicate(rig.file(DATA), "v/one")
    hold = rig.proxies[name].add(Hold(), on="get", key=f"{rig.prefix}/v/one", times=1)
    with ThreadPoolExecutor(1) as pool:
        verifying = pool.submit(rig.store().verify, "v", deep=True)
        hold.wait_reached()
        assert store.replicate(rig.file(OTHER), "v/one", overwrite=True).status == "complete"
        hold.release()
        report = verifying.result(60)
    assert (report.status, report.complete, report.found) == ("complete", 1, 0)
    assert report.bytes_read > 3 * len(DATA)


def test_an_object_deleted_while_it_is_read_is_not_lost(rig: ReplicaRig) -> None:
    """It is gone by the second look, and no object any more."""
    store = rig.store()
    assert store.replicate(rig.file(DATA), "v/one")
    hold = rig.proxies["r2"].add(Hold(), on="get", key=f"{rig.prefix}/v/one", times=1)
    with ThreadPoolExecutor(1) as pool:
        verifying = pool.submit(rig.store().verify, "v", deep=True)
        hold.wait_reached()
        assert store.remove("v/one").status == "complete"
        hold.release()
        report = verifying.result(60)
    assert (report.status, report.objects, report.found) == ("complete", 0, 0)


def test_verify_beside_a_busy_writer(rig: ReplicaRig) -> None:
    """An object that is replaced all the time may be called unknown or stale for an instant, never damaged."""
    store, stop = rig.store(), threading.Event()
    path = rig.file(DATA)
    assert store.replicate(path, "v/busy")

    def write() -> None:
        for number in range(1000):
            if stop.is_set():
                return
            data = content(MIB, seed=number % 7)
            path.write_bytes(data)
            assert store.replicate(path, "v/busy", overwrite=True)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            reports = [rig.store().verify(deep=deep) for deep in (True, False) * 3]
        finally:
            stop.set()
        writing.result(60)
    seen = {problem.state for report in reports for problem in report.problems}
    assert seen <= {"unknown", "stale"}
    assert rig.store().verify(deep=True).status == "complete"


def test_a_replacement_that_was_left_unfinished(rig: ReplicaRig) -> None:
    """Data of the next version beside the manifest of this one, with its write intent: the detail says so."""
    store = rig.store(min_copies=2)
    assert store.replicate(rig.file(DATA), "v/one")
    raw = rig.raw_replicas["local"]
    record = raw.manifest("v/one")
    assert record is not None
    raw.put("v/one", OTHER)
    raw.put(pending_name("v/one"), json.dumps(sealed({**record, "generation": record["generation"] + 1})).encode())
    for deep in (False, True):
        [problem] = store.verify(deep=deep).problems
        assert (problem.backend, problem.state) == ("local", "damaged")
        began = f"its replacement (generation {record['generation'] + 1}) was begun, not finished"
        assert problem.detail.endswith(began)


def test_an_inspector_returns_what_verify_sees_of_one_object(rig: ReplicaRig) -> None:
    """Each replica's state, metadata and detail."""
    store = rig.store()
    assert store.replicate(rig.file(DATA), "v/one")
    rig.raw_replicas["r2"].rot("v/one", OTHER)
    rig.raw_replicas["b2"].drop("v/one")
    status = run(Inspector(store.replica_set, deep=True).inspect("v/one"))
    assert dict(status.states) == {"local": "present", "r2": "damaged", "b2": "missing"}
    assert "3 of 3 blocks rotten" in status.replicas["r2"].detail
    assert status.replicas["b2"].stat is None
    assert (status.copies, status.is_deleted, status.bytes_read) == (1, False, 2 * len(DATA))


def test_deep_keeps_to_the_memory_of_the_set() -> None:
    """Four objects on two replicas, 32 MiB each, are read in 16 MiB of spans and little more."""
    stores = [MemoryStore("one"), MemoryStore("two")]
    memory = 16 * MIB
    store = ReplicatedStorage([backend(each) for each in stores], memory=memory)
    data = content(32 * MIB)
    for number in range(4):
        assert store.replicate(io.BytesIO(data[number:]), f"big/{number}")
    tracemalloc.start()
    try:
        report = store.verify(deep=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.status, report.objects) == ("complete", 4)
    assert report.bytes_read == 2 * sum(len(data) - number for number in range(4))
    assert peak < memory + 8 * MIB


def test_thirty_days_take_every_key_exactly_once() -> None:
    """Whatever the day it starts, and of about equal shares."""
    keys = [f"backups/{number}.gz" for number in range(3000)]
    for start in (0, 17, 738_000):
        shares = [[key for key in keys if Sample(30, start + day).includes(key)] for day in range(30)]
        assert sorted(key for share in shares for key in share) == sorted(keys)
        assert all(60 <= len(share) <= 140 for share in shares)


def test_a_sample_inspects_its_share_and_queries_nothing_else(
    rig: ReplicaRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three days of a third each read every object once."""
    keys = [f"v/{number}" for number in range(12)]
    store = rig.store()
    assert all(store.replicate_many([(rig.file(b"data"), key) for key in keys]))
    for proxy in rig.proxies.values():
        proxy.forget()
    sizes = []
    for day in range(3):
        monkeypatch.setattr(sample, "today", lambda day=day: date(2026, 2, 27) + timedelta(days=day))
        report = store.verify(deep=True, sample="1/3")
        assert (report.status, report.sample) == ("complete", "1/3")
        sizes.append(report.objects)
    assert sum(sizes) == len(keys)
    assert max(sizes) < len(keys)
    read = [record.key for record in rig.proxies["r2"].requests if record.operation == "head"]
    assert sorted(read) == sorted(f"{rig.prefix}/{key}" for key in keys)


@pytest.mark.parametrize("text", ["", "30", "1/0", "2/30", "1/-3", "1/30 ", "1/1000000000"])
def test_what_is_no_sample(text: str) -> None:
    """It is refused with what is meant."""
    with pytest.raises(ValueError, match="1/N"):
        parse_sample(text)
