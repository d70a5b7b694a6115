"""Objects in a bucket of an S3 service. The S3 libraries (s3fs, botocore, aiohttp) are imported by the first I/O.

- `store`: `S3Store`, the `ObjectStore`; `bucket`: `Bucket`, the bucket with its prefix and provider.
- `writer` writes one object, through `uploads` (multipart uploads and their records) and `commit`.
- `reading`, `listing`, `removing`, `orphans` and `info` implement the other methods of the store.
- `calls` makes one request with retries and an idle timeout; `errors` translates failures; `body` sends bytes.
- `client` creates the s3fs filesystem and the boto client; `fast_path` sends PUT and GET without boto.
- `profile`: what differs between providers; `arguments`: values from the environment; `secret`: hidden values.
"""

from fsbackup.stores.s3.profile import Profile
from fsbackup.stores.s3.store import S3Store

__all__ = ["Profile", "S3Store"]
