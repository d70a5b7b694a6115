"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

#: Impossible on such a service, at the price of a request or three: README and `GenericStorage` tell the user.
_CREATE = "without a conditional write, a create-only writer looks and then writes, and announces nothing"
#: Impossible on such a service: R2 has no conditional DELETE, and what it removed is gone without a trace there.
#: Where others of the set have his version, it is the newest, and repair puts it back.
_REMOVAL = "without a conditional DELETE, a delete, prune or repair looks and then removes"

#: Not looked into yet: seeds 4161, 5644, 5957 (creators on B2), 4616 (repair on FTP), 5825, 3469.
_OPEN = "seen once or twice in ten thousand cases since undone uploads, tombstones and intents came together"

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
    ("a create-only writer replaced other content", _CREATE, "b-"),
    ("a delete removed a version that it had not looked at", _REMOVAL, "i"),
    ("a prune removed a version that it had not looked at", _REMOVAL, "i"),
    ("a repair removed a version that it had not looked at", _REMOVAL, "i"),
    ("data that its records do not prove", _CREATE, "b-"),
    ("a create-only writer replaced other content", _OPEN, "i-"),
    ("a repair put an older version over a newer one", _OPEN, "b-"),
    ("a refused write won over an acknowledged one", _OPEN, "b"),
    ("what was deleted came back", _OPEN, "i-"),
)


def _place(code: str) -> str:
    return f"{_PLACES[code.removesuffix('-')]}, {'unconditional' if code.endswith('-') else 'conditional'}"


KNOWN = {f"{promise} [{_place(each)}]": why for promise, why, places in _LIST for each in places.split()}
