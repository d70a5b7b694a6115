"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

_SHARED = "writers beside the data share one intent"
_REMOVAL = "a delete, prune or repair looks and then removes: what comes in between goes"
_CREATE = "without a conditional write, a create-only writer looks and then writes"
_SUCCESS = "without an ETag, what another writer stored of the same size cannot be told apart"
_UNRECOVERABLE = "a manifest without its data counts as the newest version, whatever the others prove"
_REPAIR = "a repair's copy of one part meets a replacement between its last look and its write"
_LEFT = "an intent that other writers' crashes left is cleared by a second repair only"
_GAVE_WAY = "data of a repair that gave way, which nothing proved, lies under the intent of the next repair"

#: Places: records beside (b) or inside (i), or beside on a disk with locks (l); "-": a store of the set cannot
#: refuse a create-only write.
_PLACES = {
    "b": "beside",
    "l": "locked",
    "i": "inside",
    "bl": "beside+locked",
    "il": "inside+locked",
}

#: Promise, why it is broken, and on which stores.
_LIST: tuple[tuple[str, str, str], ...] = (
    ("a create-only writer replaced other content", _CREATE, "b b- i-"),
    ("a delete removed a version that it had not looked at", _REMOVAL, "b b- i"),
    ("a prune removed a version that it had not looked at", _REMOVAL, "b b- i"),
    ("acknowledged work is lost", _REMOVAL, "bl-"),
    ("a repair removed a version that it had not looked at", _REMOVAL, "b b- i"),
    ("a repair put an older version over a newer one", _REPAIR, "i-"),
    ("a second repair finds work", _LEFT, "b"),
    ("garbage stays", _LEFT, "b"),
    ("data that its records do not prove", _SHARED, "b b-"),
    ("data that its records do not prove", _GAVE_WAY, "l"),
    ("repair does not settle: no word", _SHARED, "b"),
    ("repair does not settle: unrecoverable", _UNRECOVERABLE, "b-"),
    ("success for bytes that were never there", _SUCCESS, "b-"),
)


def _place(code: str) -> str:
    return f"{_PLACES[code.removesuffix('-')]}, {'unconditional' if code.endswith('-') else 'conditional'}"


KNOWN = {f"{promise} [{_place(each)}]": why for promise, why, places in _LIST for each in places.split()}
