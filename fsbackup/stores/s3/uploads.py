"""Multipart uploads, and the record by which fsbackup recognises each of its own.

The metadata of an unfinished upload cannot be read, so no S3 service tells whose upload it is. Therefore
`create_upload` stores the UploadId as a small object before the first part is sent, and `delete_record` removes it
after the upload. A kill leaves an upload with a record, or one without parts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from fsbackup.errors import BackendError, FsbackupError, ObjectNotFoundError
from fsbackup.keys import META_PREFIX
from fsbackup.stores.s3.body import PartProgress
from fsbackup.stores.s3.bucket import Bucket, require_field, version_of
from fsbackup.stores.s3.errors import CallContext, code_of

UPLOADS = f"{META_PREFIX}uploads/"


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """The record of an upload: the object's name, the UploadId, the start in epoch seconds, the host."""

    name: str
    upload_id: str
    started: float
    host: str

    @property
    def record_name(self) -> str:
        """The name under which the record is stored, a hash, since an UploadId is too long and of any form."""
        return f"{UPLOADS}{hashlib.sha256(self.upload_id.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An unfinished upload, and the version of its record where the bucket keeps versions."""

    record: UploadRecord
    version: str | None

    @property
    def id(self) -> str:
        """The UploadId."""
        return self.record.upload_id


async def create_upload(bucket: Bucket, name: str, **params: Any) -> OpenUpload:
    """Create an upload and its record; on failure neither remains."""
    context = bucket.context("write", name)
    response = await bucket.calls.request(
        context, "create_multipart_upload", **bucket.object_params(name), **params
    )
    record = UploadRecord(
        name, str(require_field(response, "UploadId", context)), time.time(), socket.gethostname()
    )
    try:
        return OpenUpload(record, await _write_record(bucket, context, record))
    except FsbackupError:
        with suppress(FsbackupError):
            await abort(bucket, context, record)
        raise


async def _write_record(bucket: Bucket, context: CallContext, record: UploadRecord) -> str | None:
    data = json.dumps(asdict(record)).encode()
    response = await bucket.calls.send(
        context,
        "put_object",
        data,
        PartProgress(lambda _: None),
        **bucket.object_params(record.record_name),
        ContentType="application/json",
        ContentMD5=base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        Metadata={},
    )
    return version_of(response)


async def abort(bucket: Bucket, context: CallContext, record: UploadRecord) -> bool:
    """Abort an upload; return False when it no longer exists."""
    try:
        await bucket.calls.request(
            context, "abort_multipart_upload", **bucket.object_params(record.name), UploadId=record.upload_id
        )
    except BackendError as error:
        if code_of(error) != "NoSuchUpload" and not isinstance(error, ObjectNotFoundError):
            raise
        return False
    return True


async def delete_record(bucket: Bucket, context: CallContext, upload: OpenUpload) -> None:
    """Remove the record of a completed or aborted upload."""
    version = {"VersionId": upload.version} if upload.version else {}
    await bucket.calls.request(
        context, "delete_object", **bucket.object_params(upload.record.record_name), **version
    )
