"""Backends for S3 services. Their libraries (s3fs, botocore, aiohttp) are loaded by the first I/O."""

from fsbackup.backends.s3.objects import S3Objects
from fsbackup.backends.s3.profile import Profile
from fsbackup.backends.s3.storage import S3Backend, S3Storage

__all__ = ["Profile", "S3Backend", "S3Objects", "S3Storage"]
