"""Rounds whose objects are compressed and encrypted: kill -9 at a random request, the same again, then damage.

What is stored is opened by libraries of zstd and age, and proven by its record, without code of ours. age makes
other bytes each time, so the promise that replicas agree is the one that can break here.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Literal

import pyrage
import pytest
from backports import zstd

from fsbackup import Stages
from tests.faults.damage import damage
from tests.faults.plan import DAMAGES
from tests.faults.requests import CallAtRequest
from tests.replication.child import kill
from tests.replication.raw_replicas import proves
from tests.replication.rig import PART, Places, ReplicaRig, content, make_rig
from tests.servers.endpoint import S3Endpoint

pytestmark = pytest.mark.matrix

_CONTEXT = multiprocessing.get_context("forkserver")
KEY = "backups/dump.sql"
STORED = f"{KEY}.zst.age"
#: The requests of an upload that a replica gets, about: a few kills come too late on purpose.
_REQUESTS = 12


def _upload(places: Places, source: Path, home: Path, recipient: str, go: object) -> None:
    store = places.store(min_copies=2)
    stages = Stages(compress="zstd", encrypt={"age": [recipient]}, identity_key_file=home / "identity.key")
    go.wait()  # type: ignore[attr-defined]
    store.replicate(source, KEY, overwrite=True, stages=stages)


def plain(stored: bytes | None, identity: pyrage.x25519.Identity) -> bytes | None:
    """Return what somebody with the private key gets of an object."""
    return None if stored is None else zstd.decompress(pyrage.decrypt(stored, [identity]))


def all_proven(rig: ReplicaRig) -> set[bytes]:
    """Return the contents that the replicas have, each proven by its own record."""
    found = set()
    for name, raw in rig.raw_replicas.items():
        data, record = raw.get(STORED), raw.manifest(STORED)
        assert data is not None, name
        assert record is not None, name
        assert proves(record, data), name
        found.add(data)
    return found


@pytest.mark.parametrize("seed", range(24))
def test_the_promises_hold_for_what_is_staged(
    seed: int, moto: S3Endpoint, seaweedfs: S3Endpoint, tmp_path: Path
) -> None:
    """Old or new and nothing torn; one ciphertext on all replicas afterwards; damage is found and mended."""
    chance, identity = random.Random(f"staged/{seed}"), pyrage.x25519.Identity.generate()
    size = chance.choice([0, 1, 3000, 70_000, PART + 100])
    new, old = content(size, 1), content(chance.choice([size, 3000]), 2) if chance.random() < 0.6 else None
    with make_rig(moto, seaweedfs, tmp_path, proxied=True) as rig:
        home, recipient = rig.tmp, str(identity.to_public())
        (home / "id.txt").write_text(str(identity))
        stages = Stages(compress="zstd", encrypt={"age": [recipient]}, identity_key_file=home / "identity.key")
        store = rig.store(min_copies=2)
        if old is not None:
            assert store.replicate(rig.file(old, "old"), KEY, stages=stages, allow_empty=True).status == "complete"
        source = rig.file(new, "new")
        kill_upload(rig, source, recipient, chance)
        for name, raw in rig.raw_replicas.items():
            assert plain(raw.get(STORED), identity) in {old, new}, f"torn on {name}"
        report = store.replicate(source, KEY, overwrite=True, stages=stages, allow_empty=True)
        assert report.status == "complete", report.as_dict()
        assert store.repair().status == "complete"
        [stored] = all_proven(rig)
        assert plain(stored, identity) == new
        assert store.replicate(source, KEY, overwrite=True, stages=stages, allow_empty=True).already
        victim = rig.raw_replicas[chance.choice(list(rig.raw_replicas))]
        damage(victim, chance.choice([each for each in DAMAGES if each != "swap"]), [STORED], chance, hidden=True)
        store.restore(STORED, home / "back", identity=home / "id.txt")
        assert (home / "back").read_bytes() == new
        assert store.repair(deep=True).status == "complete"
        assert all_proven(rig) == {stored}


def kill_upload(rig: ReplicaRig, source: Path, recipient: str, chance: random.Random) -> None:
    """Upload in a process that is killed at a request, before the server gets it or after it has answered."""
    go = _CONTEXT.Event()
    process = _CONTEXT.Process(target=_upload, args=(rig.places, source, rig.tmp, recipient, go))
    process.start()
    try:
        side: Literal["before", "after"] = chance.choice(["before", "after"])
        deadly = CallAtRequest(side, lambda: os.kill(process.pid or 0, signal.SIGKILL), cut=True)
        rig.proxies[chance.choice(["r2", "b2"])].add(deadly, first=chance.randint(1, _REQUESTS), times=1)
        go.set()
        process.join()
    finally:
        kill(process)
    rig.settle()
