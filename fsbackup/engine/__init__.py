"""The engine: one object, many stores.

A single backend is a set of one, so one copy and three copies go through the same code. Nothing here walks over
many objects: that is `fsbackup.replication`, which calls these modules per key.

What operations work on: `replicas` (the stores of a set and its limits), `records` (manifest and tombstone in one
store; `ReplicaState`), `intents` (announced changes, where records lie beside their data), `survey` (the same of
all stores, and how long to wait for each), `versions` (which version is the newest, and whether it still is),
`breaker` (no waiting for stores that are known to be away), `results` (reports).

Writing, `upload.upload`::

    source, spool ── parts (PartBuffer: read once, shared, bounded memory)
                       └── fanout (FanOut: one ReplicaUpload per replica, one result for each)
                             └── replica_upload (send the parts, then the commit protocol)

`upload` decides what is sent to which store; `copy` is the same for a repair, with other replicas as its source;
`delete` writes tombstones and removes data. The commit protocols, and what a crash leaves, are in the docstrings
of `replica_upload`, `intents`, `copy` and `delete`.

Reading: `head` (existence and size), `download.locate` (records of all stores → `ObjectReader`; `read_plan` is its
data), `reader` (blocks from all healthy replicas at once, each proven before it counts; `pacing` adapts the
requests to a replica's speed, `selector` picks the replica of a short read), `restore` (into a file or stream).
`hashing` has the hashes of both directions.
"""
