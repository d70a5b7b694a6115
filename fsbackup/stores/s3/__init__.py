"""Objects in a bucket of an S3 service.

- `store`: `S3Store`, the `ObjectStore`; `bucket`: the requests on one bucket, with its prefix and provider.
- `writer` writes one object and confirms it; `uploads`: multipart uploads; `copying`: copies inside the service.
- `listing` lists objects, versions and uploads, `removing` removes one object or many.
- `requests`: one request, repeated until it succeeds or nothing moves, over the blocking connections of `http`.
- `errors`: what answers of failure mean.
- `providers`: what differs between providers; `settings`: credentials, signatures, address, proxy.
- `control`: the s3fs filesystem for `.fs`, imported when somebody wants it, and what people ask about a bucket.

A PUT of one part: on the loop `writer` `S3Writer.commit` and `Commit.run`, `bucket` `Bucket.put`, `requests`
`Call.run`; in a thread `Call._exchange`, `http` `Connection.ask`.
"""
