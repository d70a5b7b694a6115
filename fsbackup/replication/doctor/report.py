"""The result of a diagnosis: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fsbackup.engine.results import Serializable

#: `"not allowed"`: the credentials or permissions do not cover it, and the rest works; `"not known"`: the backend
#: does not tell, or it could not be tried, which is no fault.
CheckOutcome = Literal["ok", "warning", "not allowed", "failed", "not known"]
#: `"limited"`: it works, but something is not allowed or needs attention.
Health = Literal["ok", "limited", "failed"]


@dataclass(frozen=True, slots=True)
class Check(Serializable):
    """One thing that was checked.

    Parameters
    ----------
    name
        ``connect``, ``list``, ``write``, ``read``, ``create-only``, ``delete``, ``records``, ``clock``,
        ``versions``, ``uploads``, ``rules``, ``space`` or ``marker``.
    outcome
        See `CheckOutcome`.
    detail
        The result; never a secret.
    advice
        What to do about it, None when there is nothing to do.
    """

    name: str
    outcome: CheckOutcome
    detail: str
    advice: str | None = None

    json_excluded: ClassVar[tuple[str, ...]] = ("name",)


@dataclass(frozen=True, slots=True)
class Diagnosis(Serializable):
    """What one backend can do.

    Parameters
    ----------
    backend
        Its name.
    location
        Where it is, for people.
    checks
        In the order of the names above. Where the backend cannot be reached, or refuses everything, only
        ``connect`` and ``clock``; without what does not apply to the backend, such as rules to a disk, and without
        a marker that is as it should be.
    seconds
        How long it took.
    left_behind
        The name of doctor's own object, where it could not be deleted again; None when nothing remains.
    """

    backend: str
    location: str
    checks: tuple[Check, ...]
    seconds: float
    left_behind: str | None = None

    json_properties: ClassVar[tuple[str, ...]] = ("health",)

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
        return {**Serializable.as_dict(self), "checks": {check.name: check.as_dict() for check in self.checks}}
