"""What retention keeps and what it lets go, each with its reason. Pure: no I/O, no clock; `prune` acts on it.

Only versions of one thing replace each other, a *series*, and only `series_of` says what that is.

Walk a backend's listing twice: `Plan.see` every object, then `Plan.decide` each. Or `decide` a few at once.
"""

from fsbackup.retention.plan import Decision, Plan, decide
from fsbackup.retention.rule import Retention
from fsbackup.retention.series import Series, series_of

__all__ = ["Decision", "Plan", "Retention", "Series", "decide", "series_of"]
