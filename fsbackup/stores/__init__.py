"""Object I/O: what every storage place can do with objects by name, one class for each kind of place.

`base` is the interface (`ObjectStore`, `ObjectWriter`) and what implementations must keep. `local` is a directory,
`s3` a bucket, `generic` any other fsspec filesystem. Stores know names and bytes; keys, records, versions and
replicas are the business of `fsbackup.engine` above them.
"""
