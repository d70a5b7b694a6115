"""Violations that the engine is known for, by kind: why. Work on the engine empties this list."""

from __future__ import annotations

#: Impossible on such a bucket: R2 has no conditional DELETE, and what it removed is gone without a trace there.
#: What the user has to expect, as FORMAT.md says: of an object that is stored between the look and the DELETE, a
#: round trip, the copy on that backend goes. Where others of the set have it, it is the newest version, and repair
#: puts it back.
_REMOVAL = "without a conditional DELETE, a delete, prune or repair looks and then removes"

#: Impossible on B2: of several creators each looks after his write, and who was not first takes his object back.
#: What the user has to expect, as FORMAT.md says: of two that create one key in the same moment, the later one
#: must be killed within that round trip; then his object hides the first one's there, which is its older version.
_KILLED = "without a conditional write, a creator on B2 who is killed before his look takes nothing back"

#: What a creator left who was killed between data and record, over a deleted version, has no record: the next one
#: that creates takes it for data of what was deleted. Nobody was told that it is stored.
_UNFINISHED = "what a killed creator left over a deleted version counts as deleted until its record is written"

#: By promise, and the stores on which it is broken.
KNOWN = {
    "a delete removed a version that it had not looked at [inside, conditional]": _REMOVAL,
    "a prune removed a version that it had not looked at [inside, conditional]": _REMOVAL,
    "a repair removed a version that it had not looked at [inside, conditional]": _REMOVAL,
    "a create-only writer replaced other content [inside, unconditional]": _KILLED,
    "a create-only writer replaced other content [locked, conditional]": _UNFINISHED,
}
