"""Objects in a bucket of an S3 service.

- `store`: `S3Store`, the `ObjectStore`.
- `writer`: writes objects and confirms them.
- `control`: lists and removes objects, asks about the bucket, makes the filesystem of `.fs`.
- `http`: one request to the service, signed, repeated, over a blocking connection.
- `errors`: what answers of failure mean; `providers`: what differs between providers.

Each imports what is below it. A PUT of one part: on the loop `S3Writer.commit` and `Commit.run` in `writer`,
`Bucket.put` and `Call.run` in `http`; in a thread `Call._exchange` and `Connection.ask` in `http`.
"""
