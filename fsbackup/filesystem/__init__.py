"""`fsbackup://SET/KEY`: the objects of replication sets as an fsspec filesystem.

pandas, dask, pyarrow, duckdb, zarr and others use it. Each block is read from a replica that proves it; each file
is written to all replicas at once, and exists whole or not at all.

`filesystem`
    `FsbackupFileSystem`: the options and `open`. Its other methods are those of the files below.
`instances`, `identity`
    The metaclass: which instance a caller gets, and with which configuration; its option `identity`.
`metadata`, `reading`, `writing`, `append`, `moving`
    The methods of fsspec's interface, by subject. Each class derives from `FileSystemBase`.
`base`
    `FileSystemBase`: the sets and caches of one filesystem, and how synchronous calls reach the I/O loop.
`paths`, `sets`
    The parts of a path; the replication sets of the configuration.
`versions`, `blocks`, `caches`
    The way of a read: the newest version of a path, its ranges as proven blocks, what is kept of these in memory.
`directories`
    Directories as listings show them, and empty ones.
`read_file`, `write_file`, `pipe`
    Files opened to read, with their read-ahead; files opened to write, and the pipe from these to their upload.
"""

from fsbackup.filesystem.filesystem import FsbackupFileSystem

__all__ = ["FsbackupFileSystem"]
