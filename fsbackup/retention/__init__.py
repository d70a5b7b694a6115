"""Which objects a backend's retention keeps or deletes, each with the reason. Pure: no I/O, no clock.

- `rule`: `Retention`, the rule of one backend, and which times of a series it picks;
- `series`: `series_of`, which keys are versions of one thing; by `template`, which matches keys against
  destinations;
- `plan`: `Plan` applies a rule to a listing: `Plan.see` every object, then `Plan.decide` each; `decide` does both
  for a few objects;
- `archive`: which base backups of a PostgreSQL archive are kept, and which WAL they need;
- `members`: what a plan holds of one series, and `SeriesSummary`, what it tells people of it.

`fsbackup.replication.prune` acts on the decisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsbackup.lazy import names_of

if TYPE_CHECKING:
    from fsbackup.retention.archive import ArchiveRule
    from fsbackup.retention.members import SeriesSummary
    from fsbackup.retention.plan import Decision, Plan, decide
    from fsbackup.retention.rule import Retention
    from fsbackup.retention.series import Series, series_of

_MODULES = {
    "ArchiveRule": "fsbackup.retention.archive",
    "Decision": "fsbackup.retention.plan",
    "Plan": "fsbackup.retention.plan",
    "Retention": "fsbackup.retention.rule",
    "Series": "fsbackup.retention.series",
    "SeriesSummary": "fsbackup.retention.members",
    "decide": "fsbackup.retention.plan",
    "series_of": "fsbackup.retention.series",
}

__all__ = ["ArchiveRule", "Decision", "Plan", "Retention", "Series", "SeriesSummary", "decide", "series_of"]

__getattr__ = names_of(__name__, _MODULES)
