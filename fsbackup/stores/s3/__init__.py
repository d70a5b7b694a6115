"""Objects in a bucket of an S3 service. The S3 libraries (s3fs, botocore, aiohttp) are loaded by the first I/O."""

from fsbackup.stores.s3.objects import S3Objects
from fsbackup.stores.s3.profile import Profile

__all__ = ["Profile", "S3Objects"]
