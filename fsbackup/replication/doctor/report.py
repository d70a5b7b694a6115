"""What an examination finds: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: `"not allowed"`: the credentials or permissions do not cover it, and the rest works; `"not known"`: the place
#: does not say, or it could not be tried, which is no fault.
CheckOutcome = Literal["ok", "warning", "not allowed", "failed", "not known"]
#: `"limited"`: it works, but something is not allowed or wants attention.
Health = Literal["ok", "limited", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Parameters
    ----------
    name
        ``connect``, ``list``, ``write``, ``read``, ``create-only``, ``delete``, ``clock``, ``versions``,
        ``uploads``, ``rules`` or ``space``.
    outcome
        See `Outcome`.
    detail
        What was found; never a secret.
    advice
        What a person can do about it, None when there is nothing to do.
    """

    name: str
    outcome: CheckOutcome
    detail: str
    advice: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON types."""
        return {"outcome": self.outcome, "detail": self.detail, "advice": self.advice}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How one backend is.

    Parameters
    ----------
    backend
        Its name.
    location
        Where it is, for people.
    checks
        In the order of the names above. Where it cannot be reached, or lets us do nothing, only ``connect`` and
        ``clock`` are there; what a place has no such thing for is left out.
    seconds
        How long the examination took.
    left_behind
        The name of the object it was tried with, where that could not be removed again; None when nothing stays.
    """

    backend: str
    location: str
    checks: tuple[Check, ...]
    seconds: float
    left_behind: str | None = None

    @property
    def health(self) -> Health:
        """``"ok"``, ``"limited"`` (see `Health`) or ``"failed"``."""
        outcomes = {check.outcome for check in self.checks}
        if "failed" in outcomes:
            return "failed"
        return "limited" if outcomes & {"warning", "not allowed"} else "ok"

    def __bool__(self) -> bool:
        return self.health != "failed"

    def __getitem__(self, name: str) -> Check:
        """Return the check of this name; `KeyError` when there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain JSON types."""
        return {
            "backend": self.backend,
            "location": self.location,
            "health": self.health,
            "seconds": round(self.seconds, 3),
            "left_behind": self.left_behind,
            "checks": {check.name: check.as_dict() for check in self.checks},
        }
