"""Objects in a bucket of an S3 service. The S3 libraries (s3fs, botocore, aiohttp) are loaded by the first I/O."""

from fsbackup.stores.s3.profile import Profile
from fsbackup.stores.s3.store import S3Store

__all__ = ["Profile", "S3Store"]
