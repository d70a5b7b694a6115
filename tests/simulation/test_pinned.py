"""Cases that once broke a promise, by their seeds, each for one fault that was mended.

A change of the stores, the operations or the schedule lets a seed run another case: then hunt for one that shows
the same with the mended line taken back, and pin that.
"""

from __future__ import annotations

import pytest

from tests.simulation.case import case_of
from tests.simulation.known import KNOWN
from tests.simulation.run import run_case

#: What once went wrong, and the seeds that showed it.
PINNED = {
    "two writers beside the data hid each other's intent": (4650, 6900, 8203, 8423, 9836, 9727),
    "an intent was cleared though another writer's manifest could still come over ours": (6878,),
    "who creates with overwrite replaced, unannounced, what came meanwhile": (442,),
    "a repair that gave way left data that nothing proved": (7900,),
    "a delete removed what a writer stored between its look and its removal": (3713, 4754, 6205, 7031),
    "a prune removed what a writer stored between its look and its removal": (2244,),
    "a repair wrote over what a writer stored between its look and its write": (1191,),
    "a creator replaced what another one stored over a deleted copy": (690, 1733, 1948, 7018, 7650, 9883),
    "a manifest without data counted for more than what others proved": (1160, 7161, 8136),
    "another writer's bytes of the same size counted as ours": (975, 2325, 4056),
    "intents of writers that had ended were left to a second repair": (9925,),
    "who stored over a deleted copy did not wait for a repair that gave way to him": (4616,),
    "a refused replacement was put back though a prune had counted on it": (3469,),
    "a refused version counted by a manifest whose data an acknowledged one had replaced": (5825,),
    "a creator on B2 gave way to one who came second, over a deleted version": (326804, 337508),
    "the judge took for lost what one late creator put over another, of which both took theirs back": (4161, 5957),
    "a repair took a prune for a delete, and took back the copy that it had counted on": (8047,),
    "a reader was told absent while a copy went from one replica and came to another": (3023,),
    "two creators that no store could refuse both stored theirs": (189,),
    "a look missed what a writer stored who ended between its two questions": (775,),
    "a replacement polled without end for a delete that had been killed": (1609, 7838),
    "a repair put what it had copied over what came to a bucket of B2 meanwhile": (700878,),
}

#: As above, on buckets that delete on a condition.
PINNED_ON_BUCKETS = {
    "the first bytes of an object were taken for those of what replaced it": (1662, 3980),
}


@pytest.mark.parametrize("seed", [seed for seeds in PINNED.values() for seed in seeds])
def test_does_not_come_back(seed: int) -> None:
    result = run_case(case_of(seed))
    kinds = {each.kind for each in result.violations}
    assert kinds <= KNOWN.keys(), result.describe(brief=True)


@pytest.mark.parametrize("seed", [seed for seeds in PINNED_ON_BUCKETS.values() for seed in seeds])
def test_does_not_come_back_on_buckets(seed: int) -> None:
    result = run_case(case_of(seed, layout=("amazon", "amazon", "amazon")))
    assert not result.violations, result.describe(brief=True)
