"""`FsbackupPath`: what ``UPath("fsbackup://SET/KEY")`` is. Imported by universal-pathlib alone.

The set is the path's drive, as a bucket is: names, parents and suffixes are those of the key.
"""

from __future__ import annotations

import fsspec
from upath._flavour import WrappedFileSystemFlavour
from upath.implementations.cloud import CloudPath

from fsbackup.filesystem import paths
from fsbackup.filesystem.filesystem import FsbackupFileSystem

# universal-pathlib takes the rules of names from the class that fsspec has loaded, else from a guess.
fsspec.register_implementation(paths.PROTOCOL, FsbackupFileSystem, clobber=True)


class FsbackupPath(CloudPath):
    """A path of a replication set, with the methods of `pathlib.Path`."""

    __slots__ = ()

    parser = WrappedFileSystemFlavour(FsbackupFileSystem, netloc_is_anchor=True)
