"""`repair` asks before it deletes or replaces much; judged on plain files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fsbackup.cli import main
from tests.replication.prune_helpers import Disks, content

CONFIG = """\
version: 1
backends:
  a: {type: local, path: a}
  b: {type: local, path: b}
  c: {type: local, path: c}
replication:
  set: {backends: [a, b, c], min_copies: 2}
"""


def stale_on_c(root: Path, stale: int, good: int = 0) -> Disks:
    """Return three disks; one of them missed replacements."""
    disks = Disks(root)
    for number in range(stale + good):
        key = f"k/{number:03}"
        disks.put("c", key, 0)
        disks.put("ab" if number < stale else "abc", key, 0, data=b"new", generation=2)
    (root / "fsbackup.yaml").write_text(CONFIG)
    return disks


def replaced(disks: Disks, names: Sequence[str] = ("c",)) -> int:
    """Return how many objects have the new content there."""
    return sum(
        path.read_bytes() == b"new" for name in names for path in (disks.raw_replicas[name].base / "k").iterdir()
    )


def test_much_is_held_back_and_named(tmp_path: Path) -> None:
    """Eleven of eleven; what is missing besides is refilled."""
    disks = stale_on_c(tmp_path, 11)
    disks.put("ab", "another", 0)
    report = disks.store({}, min_copies=2).repair()
    assert {step.action.problem for step in report.steps if step.outcome == "unresolved"} == {"held back"}
    assert (report.status, report.unresolved, report.objects, dict(report.done)) == (
        "degraded",
        11,
        12,
        {"refill": 1},
    )
    assert replaced(disks) == 0
    assert disks.raw_replicas["c"].get("another") == content("another")


@pytest.mark.parametrize(("stale", "good"), [(10, 0), (11, 220)], ids=["ten", "less than 5 %"])
def test_little_is_repaired(tmp_path: Path, stale: int, good: int) -> None:
    """Without being asked."""
    disks = stale_on_c(tmp_path, stale, good)
    report = disks.store({}, min_copies=2).repair()
    assert (report.status, dict(report.done)) == ("complete", {"refill": stale})
    assert replaced(disks) == stale + good


def test_forged_tombstones_delete_nothing_unasked(tmp_path: Path) -> None:
    """Though they lie on enough replicas to count."""
    disks = stale_on_c(tmp_path, 0, 12)
    for number in range(12):
        key = f"k/{number:03}"
        for name in "ab":
            disks.raw_replicas[name].set_tombstone(key, generation=2)
    assert disks.store({}, min_copies=2).repair().unresolved == 12
    assert replaced(disks, "abc") == 36


def test_the_command_asks_for_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to do, and does it when told so."""
    disks = stale_on_c(tmp_path, 11)
    monkeypatch.chdir(tmp_path)
    assert main(["repair"]) == 3
    assert replaced(disks) == 0
    assert "add --yes" in capsys.readouterr().out
    assert main(["repair", "--yes"]) == 0
    assert replaced(disks) == 11
