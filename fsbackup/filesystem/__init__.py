"""`fsbackup://SET/KEY`: the objects of replication sets as an fsspec filesystem.

pandas, dask, pyarrow, duckdb, zarr and others use it. Each block is read from a replica that proves it; each file is
written to all replicas at once, and exists whole or not at all.

`filesystem`
    `FsbackupFileSystem`, made of the method classes below, with the options and `open`.
`metadata`, `reading`, `writing`
    The methods of fsspec's interface, by subject. Each class derives from `FileSystemBase`.
`base`
    `FileSystemBase`: the sets and caches of one filesystem; how synchronous calls reach the I/O loop.
`paths`, `sets`
    The parts of a path; the replication sets of the configuration.
`versions`, `blocks`, `caches`
    The way of a read: the newest version of a path, its ranges as proven blocks, the blocks kept in memory.
`directories`
    Directories as listings show them, and the empty ones.
`read_file`, `files`, `pipe`
    Files opened to read, with their read-ahead; files opened to write, and the pipe from these to the upload.
"""

from fsbackup.filesystem.filesystem import FsbackupFileSystem

__all__ = ["FsbackupFileSystem"]
