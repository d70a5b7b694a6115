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

_BESIDE = ("beside, conditional", "beside, unconditional")
_SINGLE = (*_BESIDE, "inside, conditional", "inside, unconditional")
_SETS = (*_SINGLE, "beside+inside, conditional", "beside+inside, unconditional")

_PROMISES: dict[str, tuple[str, tuple[str, ...]]] = {
    "data that its records do not prove": (_SHARED, _BESIDE),
    "proven data lost its record": (_TOMBSTONE, _BESIDE),
    "a tombstone hides a newer version": (_TOMBSTONE, _BESIDE),
    "a delete removed a version that it had not looked at": (_TOMBSTONE, _SINGLE),
    "a prune removed a version that it had not looked at": (_REMOVAL, _SINGLE),
    "a repair removed a version that it had not looked at": (_REMOVAL, _SINGLE),
    "a create-only writer replaced other content": (_CREATE, _SINGLE),
    "several create-only writers were told success": (
        _CREATE,
        tuple(f"{each}, {quorum}" for each in _SETS for quorum in ("majority", "minority")),
    ),
    "success for bytes that were never there": (_SUCCESS, _BESIDE),
    "a refused write won over an acknowledged one": (_REFUSED, _SETS),
    "a reader failed while a replica proved a content": (_STRAGGLER, _SETS),
    "repair does not settle: conflict": (_CONFLICT, _SETS),
    "repair does not settle: unrecoverable": (_UNRECOVERABLE, _SETS),
    "repair does not settle: delete": (_DELETE, _SETS),
}

KNOWN = {f"{promise} [{place}]": why for promise, (why, places) in _PROMISES.items() for place in places}
