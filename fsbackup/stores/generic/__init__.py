"""Objects as files in any filesystem that fsspec supports, through one connection in one thread.

- `store`: `GenericStore`, the `ObjectStore`; `writer`: `GenericWriter`, one write through a temp file.
- `connection`: `SessionPool`, which runs every blocking call in the thread of the current `FilesystemSession` and
  replaces a session that does not answer.
- `files`: operations on exact paths, without the parts of fsspec that expand patterns or hide errors.
- `address`: checks a URL and its options; `ftp`: a stricter FTP filesystem; `errors`: the libraries' errors as
  backend errors.
"""
