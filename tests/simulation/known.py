"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

KNOWN: dict[str, str] = {}
