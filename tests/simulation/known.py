"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

_SHARED = "writers beside the data share one intent, and what stands without a manifest is replaced without one"
_TOMBSTONE = "a delete writes and removes by name, whatever has been stored since its survey"
_REMOVAL = "a delete, prune or repair looks and then removes: what comes in between goes"
_CREATE = "where a deleted copy lies, or without a conditional write, a create-only writer looks and then writes"
_SUCCESS = "success is told after data and manifest, which another writer's or a delete's steps came between"
_REFUSED = "what was refused is not undone"
_CONFLICT = "two contents of one generation wait for a person"
_UNRECOVERABLE = "a manifest without its data counts as the newest version, whatever the others prove"
_DELETE = "`delete.complete` looks for the manifest beside the data, where the store has it inside"
_STRAGGLER = "a replica that was too slow for the survey is not asked when the others fail"

_OLDER = "an upload writes its manifest over a newer one, which then counts as never stored"
_ID = "a copy of the same version names its record object by the same id, which a delete removes"

_PLACES = {
    "b": "beside, conditional",
    "b-": "beside, unconditional",
    "i": "inside, conditional",
    "i-": "inside, unconditional",
    "bi": "beside+inside, conditional",
    "bi-": "beside+inside, unconditional",
}

#: Promise, why it is broken, and on which stores (`_PLACES`; for creators: where two write at once).
_LIST: tuple[tuple[str, str, str], ...] = (
    ("data that its records do not prove", _SHARED, "b b-"),
    ("data that its records do not prove", _ID, "i"),
    ("proven data lost its record", _TOMBSTONE, "b b-"),
    ("a tombstone hides a newer version", _TOMBSTONE, "b b-"),
    ("a delete removed a version that it had not looked at", _TOMBSTONE, "b b- i"),
    ("a prune removed a version that it had not looked at", _REMOVAL, "i"),
    ("a repair removed a version that it had not looked at", _REMOVAL, "i"),
    ("a repair put an older version over a newer one", _OLDER, "b"),
    ("a create-only writer replaced other content", _CREATE, "b b- i i-"),
    ("success for bytes that were never there", _SUCCESS, "b b-"),
    ("a refused write won over an acknowledged one", _REFUSED, "b b- i i- bi bi-"),
    ("a reader failed while a replica proved a content", _STRAGGLER, "b b- i i- bi"),
    ("repair does not settle: conflict", _CONFLICT, "b b- i i- bi bi-"),
    ("repair does not settle: unrecoverable", _UNRECOVERABLE, "b b- bi bi-"),
    ("repair does not settle: delete", _DELETE, "i i- bi bi-"),
)
_CREATORS = "several create-only writers were told success"

KNOWN = {
    **{f"{promise} [{_PLACES[each]}]": why for promise, why, places in _LIST for each in places.split()},
    **{f"{_CREATORS} [{_PLACES[each]}, minority]": _CREATE for each in ["b", "b-", "i", "i-", "bi", "bi-"]},
    **{f"{_CREATORS} [{_PLACES[each]}, majority]": _CREATE for each in ["b-", "i-", "bi-"]},
}
