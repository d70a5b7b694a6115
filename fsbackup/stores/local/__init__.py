"""Objects as plain files in a directory of this machine: temp file, fsync, rename; links are never followed.

- `store`: `LocalStore`, the `ObjectStore`. Every operation is one blocking call in a thread of its `Workers`.
- `writer`: `LocalWriter`, the loop's side of a write: threads, progress, cancellation.
- `atomic_file`: `AtomicFile`, the threads' side of a write, and its commit protocol.
- `directory`: `SafeDirectory`, the only access to the base directory, one level at a time.
- `listing`: objects in name order, and temp files of interrupted writes.
- `errors`: the operating system's errors as backend errors.
"""
