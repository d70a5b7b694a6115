"""Objects in a bucket of an S3 service.

- `store`: `S3Store`, the `ObjectStore`; `bucket`: the requests on one bucket, with its prefix and provider.
- `writer` writes one object and `commit` confirms it; `uploads`: multipart uploads and their records.
- `listing`, `removing` and `info` implement the other methods of the store.
- `calls` makes one request; `attempts` repeats it, and ends it when nothing moves. Requests of the data plane
  (objects, listings) go through `http`: blocking connections (`connection`) in threads, signed by `sign`, perhaps
  through a `proxy`. Those of the control plane go through `control`, the boto client of s3fs, which is imported
  when it is needed. `progress` reports bytes to the loop.
- `errors` translates failures; `xml` parses responses.
- `providers`: what differs between providers; `settings`: credentials, address, values from the environment.
"""

from fsbackup.stores.s3.providers import Profile
from fsbackup.stores.s3.store import S3Store

__all__ = ["Profile", "S3Store"]
