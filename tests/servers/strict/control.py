"""The test's view of a strict server: what was asked of it, what it refused, what it holds."""

from __future__ import annotations

import json
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A request that broke a rule of the provider."""

    method: str
    path: str
    operation: str
    status: int
    code: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The counters of a strict server.

    Attributes
    ----------
    requests
        How many of each operation, also those refused.
    refusals
        Every request that broke a rule; an ordinary 404 or 412 is none, nor is a 503.
    unavailable
        How many requests were answered 503.
    bytes_stored
        What would be billed: hidden versions and parts of unfinished uploads too.
    open_uploads
        How many multipart uploads are neither completed nor aborted.
    """

    requests: dict[str, int]
    refusals: list[Refusal]
    unavailable: int
    bytes_stored: int
    open_uploads: int


@dataclass(frozen=True)
class Control:
    """Asks a strict server about itself and sets it."""

    url: str
    ca_bundle: Path

    def report(self) -> Report:
        """Return the counters."""
        return _report(self._send("GET", "state"))

    def reset(self) -> None:
        """Empty all buckets, zero all counters, and go back to the settings of the start."""
        self._send("POST", "reset")

    def configure(self, **settings: float) -> None:
        """Change what `Settings` has, until the next `reset`."""
        self._send("POST", "settings", settings)

    def _send(self, method: str, action: str, values: dict[str, float] | None = None) -> dict[str, Any]:
        body = json.dumps(values or {}).encode() if method == "POST" else None
        request = urllib.request.Request(f"{self.url}/__control__/{action}", data=body, method=method)
        trust = ssl.create_default_context(cafile=self.ca_bundle)
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
            report: dict[str, Any] = json.load(answer)
        return report


def _report(values: dict[str, Any]) -> Report:
    refusals = [Refusal(**one) for one in values["refusals"]]
    return Report(**{**values, "refusals": refusals})
