"""`prune`: let go what each backend's retention no longer keeps, and never the last proven copy that one wants.

What is decided by
------------------
Two walks over the whole set, whatever the prefix: a series' floor must count all of its objects, so the prefix
only restricts what is acted upon. The first walk shows every backend's plan what that backend lists, data and
record; the second decides. An object's age comes from the listings, so that what is kept costs no request of its
own: it is the oldest time at which any replica that has the object got its manifest. (A file's own mtime says when
its source was written, and a copy that repair put back is younger than the object.) Before anything goes, the
replicas are asked for its manifest, and it stays when its rule keeps it by the manifest's `created_at` or by the
time at which this very backend got it: a wrong time can make an object stay too long, but not go too early.

The order of a removal
----------------------
The data first, then what was announced for it, the manifest last; never a tombstone. A kill in between leaves a
manifest without data. That is no lost object, since retention, which status, verify and repair ask, does not want
it there; readers go on to the next replica, as the data is absent here; and the next prune clears it. The other
way round the data would stay without proof: readers would be given unproven bytes, repair would give it its
manifest back, and nobody could tell it from data that others put there, which nothing of ours may remove.
"""

from fsbackup.replication.prune.expected import expected
from fsbackup.replication.prune.results import BackendPruned, PruneReport, PruneStep
from fsbackup.replication.prune.run import Options, prune

__all__ = ["BackendPruned", "Options", "PruneReport", "PruneStep", "expected", "prune"]
