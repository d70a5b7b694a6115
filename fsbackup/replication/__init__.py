"""Many objects in many replicas: the operations of a replication set.

`storage.ReplicatedStorage` is the public class; each of its methods calls one module here. Single objects are
uploaded, read and deleted by `fsbackup.engine`.

==================  ==============================================================================================
`walk`              merges the replicas' sorted listings into one stream of keys
`classify`          decides what each replica has of an object (`CopyState`) and the object's status; pure
`inspector`         queries the replicas about one object (`bytecheck`: reads every byte), and classifies
`ls`, `stat`        one `ObjectStatus` per object, from listings and from manifests
`status`            counts, groups and ages of a whole set, from listings
`verify`            inspects every object (`sample`: today's share of them) and reports problems with advice
`repair`            inspects, plans and executes what makes every replica complete
`prune`             deletes what each backend's retention no longer keeps
`batch`, `tree`     uploads of many files, restores of many objects, within one memory budget
`batches`           batches of keys for an executor: other threads, processes or machines
`doctor`            checks what each backend can do
`progress`          fsspec callbacks
==================  ==============================================================================================
"""
