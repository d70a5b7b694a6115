"""How commands print numbers, tables and verdicts."""

from __future__ import annotations

import sys

import pytest

from fsbackup.cli import render


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (5 << 50, "5.0 PiB")],
)
def test_sizes(number: int, text: str) -> None:
    assert render.size(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0m"), (7_199, "119m"), (7_200, "2h"), (259_200, "3d")])
def test_ages(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_numbers_and_quantities_are_flush_right() -> None:
    rows: list[render.Row] = [
        {"backend": "r2", "stored": 12_345, "sent": "1.0 MiB", "status": "ok"},
        {"backend": "disk1", "stored": 7, "sent": "812 B", "status": "failed: a\nb"},
    ]
    assert render.format_table(rows) == [
        "backend  stored     sent  status",
        "r2       12,345  1.0 MiB  ok",
        "disk1         7    812 B  failed: a\\nb",
    ]


def test_a_column_without_any_count_is_left_out() -> None:
    counts = [{"present": 3, "missing": 0}, {"present": 2, "stale": 1}]
    assert render.used_columns(("present", "missing", "stale"), counts) == ["present", "stale"]


def test_a_verdict_leaves_out_empty_parts() -> None:
    parts = ("3 objects examined", render.remaining(0, "lost"), render.remaining(2, "with fewer copies"))
    assert render.verdict("failed", *parts, next_step="`fsbackup repair`") == (
        "failed: 3 objects examined; 2 objects with fewer copies. Next: `fsbackup repair`"
    )
    assert render.verdict("complete", "1 object", render.unreachable([])) == "complete: 1 object"


def test_a_report_escapes_what_a_terminal_would_interpret(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_report([{"backend": "r2"}], problems=["a\n\x1b[31m"], verdict="failed: \x1b[0m")
    assert capsys.readouterr().out == "backend\nr2\n\na\\n\\x1b[31m\nfailed: \\x1b[0m\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_letters_that_nobody_sees_are_escaped_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    """What turns the direction of a name, or is invisible in it; into a pipe the name goes as it is."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    name = "invoice\u202efdp.exe\u200b"
    render.print_key(name)
    render.print_line(name)
    shown = "invoice\\u202efdp.exe\\u200b" if terminal else name
    assert capsys.readouterr().out == f"{shown}\n{shown}\n"
