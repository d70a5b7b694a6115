"""One rule of status: in each situation `stat`, `status`, `verify`, a dry `repair` and the exit codes agree."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fsbackup import ReplicatedStorage
from fsbackup.cli import exits
from fsbackup.record import Manifest, Origin, dump
from fsbackup.replication.classify import classify_listed
from fsbackup.replication.walk import KeyEntry, ReplicaEntry
from fsbackup.stores.base import ObjectStat
from tests.replication.memory import MemoryStore
from tests.replication.prune_helpers import KEY, NEW, Disks, content, drop
from tests.replication.raw_replicas import manifest_name, sealed

LONGER = content(KEY) + b", and more"

CONFIG = """\
version: 1
backends:
  a: {{type: local, path: a, retention: {{max_age: 30d, keep_last: 1, series: "^(db)/"}}}}
  b: {{type: local, path: b}}
  c: {{type: local, path: c}}
replication:
  set: {{backends: [a, b, c], min_copies: {min_copies}}}
"""

#: Runs each command in each directory with `main`, and prints the exit codes after all that they print.
RUN_ALL = """\
import contextlib, io, json, os, sys
from fsbackup.cli import main
codes = {}
for directory in json.loads(sys.argv[1]):
    os.chdir(directory)
    codes[directory] = []
    for command in json.loads(sys.argv[2]):
        with contextlib.redirect_stdout(io.StringIO()):
            codes[directory].append(main(command))
print(json.dumps(codes))
"""
COMMANDS = (["stat", KEY], ["status"], ["verify"], ["repair", "--dry-run"])


def everywhere(disks: Disks) -> None:
    """Leave the three copies as they are."""


def damage_manifests(disks: Disks, on: str) -> None:
    for name in on:
        disks.raw_replicas[name].put(manifest_name(KEY), b"{")


def upgrade(disks: Disks, on: str) -> None:
    """Have a later version of fsbackup store the object again, with a record of which little is known."""
    for name in on:
        disks.raw_replicas[name].put(manifest_name(KEY), json.dumps(sealed({"format": 2})).encode())


def drop_manifests(disks: Disks, on: str) -> None:
    for name in on:
        disks.raw_replicas[name].drop(manifest_name(KEY))


def remove(disks: Disks, on: str) -> None:
    for name in on:
        drop(disks, name)


def delete(disks: Disks, on: str) -> None:
    """Leave tombstones, as a delete does that not every replica confirmed."""
    for name in on:
        remove(disks, name)
        disks.raw_replicas[name].set_tombstone(KEY, generation=1)


def begin_delete(disks: Disks) -> None:
    """Leave tombstones everywhere and all the data, as a crash in a delete does."""
    for raw in disks.raw_replicas.values():
        raw.set_tombstone(KEY, generation=1)


def break_disk(disks: Disks, name: str) -> None:
    base = disks.raw_replicas[name].base
    base.rename(base.with_name(f"{name}-away"))
    base.write_bytes(b"no directory")


def b_missing_c_unreachable(disks: Disks) -> None:
    remove(disks, "b")
    break_disk(disks, "c")


def damaged_and_unreachable(disks: Disks) -> None:
    damage_manifests(disks, "ab")
    break_disk(disks, "c")


def put_longer(disks: Disks, on: str, generation: int) -> None:
    disks.put(on, KEY, 0, data=LONGER, generation=generation)


#: What happens to an object with three good copies, how many copies the set requires, and the status.
SITUATIONS: dict[str, tuple[Callable[[Disks], None], int, str]] = {
    "all good": (everywhere, 3, "complete"),
    "missing above min_copies": (lambda disks: remove(disks, "c"), 2, "degraded"),
    "missing below min_copies": (lambda disks: remove(disks, "bc"), 2, "failed"),
    "expired": (lambda disks: remove(disks, "a"), 3, "complete"),
    "expired, and one missing": (lambda disks: remove(disks, "ab"), 2, "failed"),
    "stale above min_copies": (lambda disks: put_longer(disks, "ab", 2), 2, "degraded"),
    "stale below min_copies": (lambda disks: put_longer(disks, "a", 2), 3, "failed"),
    "newer below min_copies": (lambda disks: put_longer(disks, "a", 2), 2, "degraded"),
    "deleted on too few": (lambda disks: delete(disks, "a"), 2, "degraded"),
    "one manifest damaged": (lambda disks: damage_manifests(disks, "c"), 2, "degraded"),
    "all manifests damaged": (lambda disks: damage_manifests(disks, "abc"), 1, "failed"),
    "one manifest missing": (lambda disks: drop_manifests(disks, "c"), 2, "degraded"),
    "all manifests missing": (lambda disks: drop_manifests(disks, "abc"), 1, "failed"),
    "conflict, one content proven": (lambda disks: put_longer(disks, "c", 1), 2, "degraded"),
    "conflict, no content proven": (lambda disks: put_longer(disks, "c", 1), 3, "failed"),
    "conflict, both contents proven": (lambda disks: put_longer(disks, "c", 1), 1, "degraded"),
    "unreachable above min_copies": (lambda disks: break_disk(disks, "c"), 2, "degraded"),
    "unreachable, perhaps enough": (lambda disks: break_disk(disks, "c"), 3, "degraded"),
    "unreachable, too few": (b_missing_c_unreachable, 3, "failed"),
    "unreachable, nothing proven": (damaged_and_unreachable, 1, "failed"),
    "newer format above min_copies": (lambda disks: upgrade(disks, "c"), 2, "degraded"),
    "newer format, perhaps enough": (lambda disks: upgrade(disks, "c"), 3, "degraded"),
    "newer format everywhere": (lambda disks: upgrade(disks, "abc"), 1, "failed"),
    "deleted elsewhere": (lambda disks: delete(disks, "ab"), 2, "degraded"),
    "delete begun everywhere": (begin_delete, 2, "degraded"),
}


def make(situation: str, root: Path) -> Path:
    """Return a directory with a configuration and three disks in this situation."""
    root.mkdir()
    change, min_copies, _ = SITUATIONS[situation]
    disks = Disks(root)
    age = 40 if "expired" in situation else 0
    disks.put("abc", KEY, age)
    disks.put("abc", NEW, 0)
    change(disks)
    (root / "fsbackup.yaml").write_text(CONFIG.format(min_copies=min_copies))
    return root


@pytest.mark.parametrize("situation", SITUATIONS)
def test_all_views_agree(situation: str, tmp_path: Path) -> None:
    """`stat`, `status`, `verify` and a dry run of `repair` give one status."""
    root = make(situation, tmp_path / "set")
    store = ReplicatedStorage.from_config(root / "fsbackup.yaml", "set", errors="raise")
    found = {
        "stat": store.stat(KEY).status,
        "status": store.status().status,
        "verify": store.verify().status,
        "repair": store.repair(dry_run=True).status,
    }
    assert found == dict.fromkeys(found, SITUATIONS[situation][2])
    assert store.stat(NEW).is_complete is ("unreachable" not in situation)


def test_all_exit_codes_agree(tmp_path: Path) -> None:
    """The commands exit with the code of the status, in every situation."""
    wanted = {}
    for number, (situation, (_, _, status)) in enumerate(SITUATIONS.items()):
        directory = make(situation, tmp_path / str(number))
        wanted[str(directory)] = [exits.BY_STATUS[status]] * len(COMMANDS)
    arguments = [json.dumps(list(wanted)), json.dumps(COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == wanted


@pytest.mark.parametrize("key", ["k", "é" * 100, "k" * 900])
def test_listings_tell_whether_there_is_a_manifest(key: str) -> None:
    """The smallest one suffices; with a tombstone or a damaged record replicas are queried."""
    origin = Origin("h")
    manifest = Manifest(key, 0, "0" * 64, 1, (), 1, None, "2026-01-01T00:00:00+00:00", origin, 1, "0", "0" * 32)
    for record, tombstone, suffices in (
        (dump(manifest), None, True),
        (dump(manifest), 1, False),
        (b"", None, False),
    ):
        deleted = None if tombstone is None else ObjectStat("t", tombstone)
        listed = ReplicaEntry(ObjectStat("n", 0), ObjectStat("m", len(record)), deleted)
        found = classify_listed(KeyEntry(key, {"a": listed}), {"a": MemoryStore("a")}, 1)
        assert (found is not None) is suffices
