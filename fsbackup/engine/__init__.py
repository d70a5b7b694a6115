"""The engine: one object on many stores. A single backend is a set of one and goes through the same code.

Upload: `upload` asks all replicas for their records (`records`, `versions`), opens a `source`, and starts one
`replica_upload` per store. They take the same parts from a shared buffer (`parts`, with `spool` for streams), are
hashed once (`hashing`), and each commits data and record in the order that `replica_upload` describes.

Download: `restore` (into a file, a stream, or one range) calls `download`, which finds the newest version and
returns an `ObjectReader` (`read_plan` is its data); its ranges are read from all healthy replicas at once by
`reader`, at the pace of each (`pacing`), short ones from the fastest (`selector`).

The rest: `delete` removes an object, `head` tells whether it exists and its size, `copy` writes one version to
replicas that lack it (for repair). `replicas` describes a set, `breaker` remembers which stores do not answer,
`results` has the reports.
"""
