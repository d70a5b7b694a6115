"""`prune`: delete from each backend the copies that its retention no longer keeps.

Files: `run` lists the set and reports; `plans` applies the retention rules to listed objects; `decide` decides
about one copy, purely; `execute` deletes copies; `report` has the results.

Which copies are deleted
------------------------
The set is listed twice. The first listing covers the whole set,
whatever the prefix, because the `keep_last` of a series counts all of its objects; the second listing is
restricted to the prefix, and decides. An object's age comes from the listings, so that an object that is kept
costs no request: it is the oldest time at which any replica that has the object got its manifest. (The file's own
mtime says when the source was written, and a copy that repair put back is younger than the object.) Before a copy
is deleted, all replicas are asked for the manifest. The copy stays if the rule keeps it by any manifest's
`created_at`, or by the time at which this backend got it: a wrong time can make an object stay too long, never go
too early.

Only older versions of a series are deleted; a series is named by a destination's ``{now}`` or by the rule's
`series`. A key that a job has just found at its source stays too, even if a rule takes it for an older version.

A backend's copies are judged among the objects which that backend lists; a copy that it lacks, as if it had every
object of any replica. Status, verify and repair tell expired from missing in the second way. Prune predicts what
they will say after the delete, for this backend and for all others, and deletes nothing that would then be
missing.

The order of a delete
---------------------
First the data, then its write intent, last the manifest; never a
tombstone. A crash in between leaves a manifest without data. No object is lost: the retention rules do not want
the copy, so status, verify and repair call it expired; readers find no data and use the next replica; the next
prune clears the manifest. The reverse order would leave data without proof: readers would get unproven bytes,
repair would write the manifest again, and nothing would tell the data from other people's objects, which fsbackup
never deletes.

Before the data and before the manifest, the backend is asked whether it still has that very version without a new
write intent; otherwise the copy stays. No service deletes on such a condition, so where there is no lock either,
the delete is announced first, and a replacement waits for its end (`engine/intents.py`).

The copies that it counts on may have been written a moment ago, by a repair that has not ended: nobody takes one
back without a tombstone, see `engine/repairs.py`.

In a bucket whose objects have their manifests inside, up to 1,000 decided copies are removed together, by few
requests (`ObjectStore.remove_many`). A listing right before them compares each object with the one that was
decided about. Versions are removed by their ids; a bucket without versions loses an object that replaces another
one between that listing and the removal, a round trip later, on this backend.
"""

from fsbackup.replication.prune.plans import find_expired
from fsbackup.replication.prune.report import BackendSeries, PruneCounts, PruneReport, PruneStep, SeriesReport
from fsbackup.replication.prune.run import PruneOptions, find_series, prune

__all__ = [
    "BackendSeries",
    "PruneCounts",
    "PruneOptions",
    "PruneReport",
    "PruneStep",
    "SeriesReport",
    "find_expired",
    "find_series",
    "prune",
]
