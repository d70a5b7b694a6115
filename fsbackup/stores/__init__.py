"""Object I/O: reading, writing, listing and removing objects by name, one store class for each kind of storage.

- `base` is the interface: `ObjectStore`, `ObjectWriter`, and the rules every implementation keeps.
- `local` stores objects as files below a directory, `s3` in a bucket, `generic` in any other fsspec filesystem.
- `names` is shared by `local` and `generic`: the order of names, the names of temp files, permission bits.
- `page_cache` writes to files, those of `local` and of others alike.

The stores do not import each other. They know names and bytes; keys, records, versions and replicas belong to
`fsbackup.engine`, which calls the stores.
"""
