"""`fsbackup://SET/KEY`: the objects of replication sets as an fsspec filesystem.

pandas, dask, pyarrow, duckdb, zarr and whatever else speaks fsspec read each block from whichever replica proves
it, and write to all of them at once.
"""

from fsbackup.filesystem.filesystem import FsbackupFileSystem

__all__ = ["FsbackupFileSystem"]
