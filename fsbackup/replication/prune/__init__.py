"""`prune`: let go what each backend's retention no longer keeps, and never the last proven copy that one wants.

What is decided by
------------------
Two walks. The first goes over the whole set, whatever the prefix, because a series' floor must count all of its
objects; the prefix only restricts the second one, which decides. An object's age comes from the listings, so that
what is kept costs no request of its own: it is the oldest time at which any replica that has the object got its
manifest. (A file's own mtime says when its source was written, and a copy that repair put back is younger than the
object.) Before anything goes, all replicas are asked for its manifest, and it stays when its rule keeps it by any
manifest's `created_at` or by the time at which this very backend got it: a wrong time can make an object stay too
long, but not go too early.

Only older versions of a series go, and a series is named by a destination's ``{now}`` or by the rule's `series`.
What a job has just found at its source stays as well, though a rule may take it for an older version.

What a backend has is judged among what that backend lists; what it lacks, as if it had all that any replica has.
The second is how status, verify and repair tell expired from missing, so prune reckons in the same way what they
will say afterwards, of the copy that goes and of every other backend: it never lets go what would then be missed.

The order of a removal
----------------------
The data first, then what was announced for it, the manifest last; never a tombstone. A kill in between leaves a
manifest without data. That is no lost object, since retention, which status, verify and repair ask, does not want
it there; readers go on to the next replica, as the data is absent here; and the next prune clears it. The other
way round the data would stay without proof: readers would be given unproven bytes, repair would give it its
manifest back, and nobody could tell it from data that others put there, which nothing of ours may remove.

Before the data and before the manifest the backend is asked whether it still has that very version and nobody has
announced another; then it is left alone. No service deletes on such a condition: a replacement that is announced
and done between the last question and the delete loses its copy on this backend. Its manifest stays and says so.
"""

from fsbackup.replication.prune.expected import expected
from fsbackup.replication.prune.report import PruneCounts, PruneReport, PruneStep
from fsbackup.replication.prune.run import PruneOptions, prune

__all__ = ["PruneCounts", "PruneOptions", "PruneReport", "PruneStep", "expected", "prune"]
