"""Names and settings of a bucket, and the filesystem of `.fs`.

- `listing`: objects, versions and unfinished uploads; `removing`: one object or many.
- `shared_look`: one listing of versions for many callers.
- `info`: clock, versioning, lifecycle rules, unfinished uploads.
- `filesystem`: the s3fs filesystem, imported on first use.
"""
