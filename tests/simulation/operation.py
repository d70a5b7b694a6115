"""One operation and how it went, as the judge knows it; no code of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KEY = "d/k"

Verb = Literal["create", "replace", "delete", "prune", "repair", "read"]


@dataclass(eq=False)
class Operation:
    """One operation, and how it went.

    Attributes
    ----------
    name, verb
        Of its process, and what it does.
    content
        What it writes; what it has read.
    start, end
        The numbers of its first step, and of the last before it ended.
    status
        ``"ok"`` where success was reported.
    confirmed
        The stores for which success was reported.
    """

    name: str
    verb: Verb
    content: bytes | None = None
    deep: bool = False
    target: int = 0
    start: int = 1 << 30
    end: int = 1 << 30
    status: Literal["running", "ok", "failed", "crashed"] = "running"
    confirmed: tuple[str, ...] = ()
    error: BaseException | None = None
    faulted: bool = False

    @property
    def writes(self) -> bool:
        return self.verb in ("create", "replace")

    def __str__(self) -> str:
        told = f"{type(self.error).__name__} {self.error}" if self.error else ""
        on = f" on {', '.join(self.confirmed)}" if self.confirmed else ""
        return f"     {self.name}: {self.status}{on}, steps {self.start} to {self.end} {self.content!r} {told}"
