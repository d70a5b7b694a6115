"""Refuses to make a new version while this machine's clock is wrong.

A generation starts from the writer's clock. One that is far ahead would outrank all that is stored after it; one
that is far behind may give less than what it replaces is worth, and dates by which retention deletes too early.
"""

from __future__ import annotations

from collections.abc import Iterable

from fsbackup.errors import ClockError
from fsbackup.stores.base import ObjectStore

#: Seconds that clocks may differ. Amazon S3 refuses requests that are 15 minutes off ("RequestTimeTooSkewed").
MAX_CLOCK_SKEW = 300.0


def check_clock(stores: Iterable[ObjectStore], key: str) -> None:
    """Raise an error when every service that tells the time says that this machine's clock is wrong.

    Where one of them agrees with it, it is another one's clock that is wrong; `doctor` says so.

    Raises
    ------
    ClockError
        When it is more than five minutes off.
    """
    skews = {store.name: store.clock_skew for store in stores if store.clock_skew is not None}
    if not skews or any(abs(skew) <= MAX_CLOCK_SKEW for skew in skews.values()):
        return
    smallest = min(skews.values(), key=abs)
    difference = f"{abs(smallest) / 60:.0f} minutes {'ahead of' if smallest > 0 else 'behind'}"
    say = "says" if len(skews) == 1 else "say"
    raise ClockError(
        f"the clock of this machine is {difference} what {', '.join(skews)} {say}; nothing was written",
        operation="upload",
        key=key,
        hint="set the clock (NTP): the order of versions and what retention deletes depend on it",
    )
