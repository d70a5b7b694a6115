"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

#: Impossible on such a service, at the price of a request or three: README and `GenericStorage` tell the user.
_CREATE = "without a conditional write, a create-only writer looks and then writes, and announces nothing"
#: Impossible on such a service: R2 has no conditional DELETE, and what it removed is gone without a trace there.
#: Where others of the set have his version, it is the newest, and repair puts it back.
_REMOVAL = "without a conditional DELETE, a delete, prune or repair looks and then removes"

#: Impossible on B2: of several creators each looks after his write, and who was not first takes his object back.
_KILLED = "without a conditional write, a creator on B2 who is killed before his look takes nothing back"

#: Where no lock shows that there was none, a delete that begins and ends within a repair's write leaves no other
#: trace than a prune that has counted on the repair's copy. Taken for a delete, what the prune left goes.
_TRACELESS = "a repair takes a prune, on the others, for a delete that has ended, and takes its copy back"

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
    ("a create-only writer replaced other content", _KILLED, "i-"),
    ("a repair put an older version over a newer one", _CREATE, "b-"),
    ("what nobody deleted is lost", _TRACELESS, "b b- i i-"),
)


def _place(code: str) -> str:
    return f"{_PLACES[code.removesuffix('-')]}, {'unconditional' if code.endswith('-') else 'conditional'}"


KNOWN = {f"{promise} [{_place(each)}]": why for promise, why, places in _LIST for each in places.split()}
