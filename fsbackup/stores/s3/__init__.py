"""Objects in a bucket of an S3 service.

- `store`: `S3Store`, the `ObjectStore`; `bucket`: the requests on one bucket, with its prefix and provider.
- `writer` writes one object and confirms it; `uploads`: multipart uploads and copies inside the service.
- `listing` lists objects and versions, `removing` removes one or many.
- `requests`: one request, repeated until it succeeds or nothing moves. Those of the data plane (objects, uploads,
  listings) go through `http`: blocking connections (`connection`) in threads, perhaps through a proxy. Those of
  the control plane, which ask about a bucket, go through `control`, the boto client of s3fs, which is imported
  when it is needed.
- `errors`: what answers of failure mean.
- `providers`: what differs between providers; `settings`: credentials, signatures, address.

A PUT of one part: `writer` `S3Writer`, `bucket` `Bucket.put`, `requests` `Calls.send` and in a thread `http`
`Exchange.run`, `connection` `Connection.send`.
"""

from fsbackup.stores.s3.providers import Profile
from fsbackup.stores.s3.store import S3Store

__all__ = ["Profile", "S3Store"]
