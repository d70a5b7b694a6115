"""What the exit codes mean: the one map."""

from __future__ import annotations

from collections.abc import Iterable

COMPLETE = 0
FAILED = 1
USAGE = 2
DEGRADED = 3
#: As a shell reports a program that a signal ended: 128 and the signal's number.
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

OF_STATUS = {"complete": COMPLETE, "degraded": DEGRADED, "failed": FAILED}

MEANING = {
    COMPLETE: "complete: every replica is good",
    FAILED: "failed: something is not stored, not found or not proven",
    USAGE: "wrong usage or configuration; nothing was done",
    DEGRADED: "degraded: enough copies (min_copies), but not all",
    INTERRUPTED: "interrupted by Ctrl-C (143: by SIGTERM); nothing unfinished was stored",
}

_SEVERITY = (COMPLETE, DEGRADED, FAILED, USAGE)


def worst(codes: Iterable[int]) -> int:
    """Return the worst of several outcomes; none at all is complete."""
    return max(codes, key=_SEVERITY.index, default=COMPLETE)
