"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

#: As a whole filesystem behind fsspec, or a bucket with `records: beside` whose service has no If-None-Match. To
#: announce each new object would take three requests more for it, on a service where two or three store it.
#: `GenericStorage`, README and FORMAT.md tell the user: two that create one key in the same moment may both be
#: told success, the last one's object stays; until that is proven, readers use other replicas or get an error.
_CREATE = "without a conditional write, a create-only writer looks and then writes, and announces nothing"
#: Impossible on such a service: R2 has no conditional DELETE, and what it removed is gone without a trace there.
#: What the user has to expect, as FORMAT.md says: of an object that is stored between the look and the DELETE, a
#: round trip, the copy on that backend goes. Where others of the set have it, it is the newest version, and repair
#: puts it back.
_REMOVAL = "without a conditional DELETE, a delete, prune or repair looks and then removes"

#: Impossible on B2: of several creators each looks after his write, and who was not first takes his object back.
#: What the user has to expect, as FORMAT.md says: of two that create one key in the same moment, the later one
#: must be killed within that round trip; then his object hides the first one's there, which is its older version.
_KILLED = "without a conditional write, a creator on B2 who is killed before his look takes nothing back"

#: Places: records beside (b) or inside (i), or beside on a disk with locks (l); "-": a store of the set cannot
#: refuse a create-only write; after a colon: whether `min_copies` are a majority.
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
    ("several create-only writers were told success", _CREATE, "b-:minority b-:majority"),
)


def _place(code: str) -> str:
    kinds, _, copies = code.partition(":")
    conditional = "unconditional" if kinds.endswith("-") else "conditional"
    return ", ".join([_PLACES[kinds.removesuffix("-")], conditional, *filter(None, [copies])])


KNOWN = {f"{promise} [{_place(each)}]": why for promise, why, places in _LIST for each in places.split()}
