"""Multipart uploads."""

from __future__ import annotations

from tests.servers.strict.messages import Answer, Call, RefusedError, S3Error, md5_hex, read_xml, xml_answer
from tests.servers.strict.objects import check_write_conditions, copy_source, store_version
from tests.servers.strict.state import State
from tests.servers.strict.store import Part, Upload, Version

_MAX_PARTS = 10_000


def create_multipart(state: State, call: Call) -> Answer:
    """Begin an upload."""
    content_type = call.header("content-type") or "binary/octet-stream"
    upload = Upload(call.key, call.metadata, content_type)
    state.bucket(call).uploads[upload.upload_id] = upload
    names = (("Bucket", call.bucket), ("Key", call.key), ("UploadId", upload.upload_id))
    return xml_answer("InitiateMultipartUploadResult", *names)


def upload_part(state: State, call: Call) -> Answer:
    """Take one part; the same number again replaces it."""
    number = int(call.query.get("partNumber", "0"))
    if not 1 <= number <= _MAX_PARTS:
        raise RefusedError(400, "InvalidArgument", f"Part number must be between 1 and {_MAX_PARTS}.")
    is_copy = bool(call.header("x-amz-copy-source"))
    body = _copied(state, call) if is_copy else call.body
    part = Part(body, md5_hex(body))
    _upload(state, call).parts[number] = part
    if is_copy:
        return xml_answer("CopyPartResult", ("ETag", f'"{part.etag}"'))
    return Answer(headers={"ETag": f'"{part.etag}"'})


def _copied(state: State, call: Call) -> bytes:
    """Return the bytes of another object that are to be a part."""
    data = copy_source(state, call).data or b""
    first, _, last = call.header("x-amz-copy-source-range").removeprefix("bytes=").partition("-")
    if not last.isdecimal() or not first.isdecimal() or not int(first) <= int(last) < len(data):
        raise RefusedError(
            400, "InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=F-L."
        )
    return data[int(first) : int(last) + 1]


def complete(state: State, call: Call) -> Answer:
    """Join the parts named, in the order of their numbers, into an object."""
    upload = _upload(state, call)
    parts = _named_parts(call, upload)
    state.provider.check_part_sizes([len(part.data) for part in parts])
    _abort_unless_conditions_hold(state, call, upload)
    etag = state.provider.multipart_etag([part.etag for part in parts])
    data = b"".join(part.data for part in parts)
    version = Version(call.key, data, etag, upload.metadata, upload.content_type)
    store_version(state, call, version)
    del state.bucket(call).uploads[upload.upload_id]
    names = (("Bucket", call.bucket), ("Key", call.key), ("ETag", f'"{etag}"'))
    answer = xml_answer("CompleteMultipartUploadResult", *names)
    extra = {"x-amz-version-id": version.version_id} if state.provider.is_versioned else {}
    return Answer(200, {**answer.headers, **extra}, answer.body)


def _abort_unless_conditions_hold(state: State, call: Call, upload: Upload) -> None:
    bucket = state.bucket(call)
    try:
        check_write_conditions(call, bucket.current(state.key(call)))
    except S3Error:
        del bucket.uploads[upload.upload_id]
        raise


def _named_parts(call: Call, upload: Upload) -> list[Part]:
    named = [
        (int(item.findtext("PartNumber", "0")), item.findtext("ETag", "").strip('"'))
        for item in read_xml(call.body).iter("Part")
    ]
    numbers = [number for number, _ in named]
    if not numbers:
        raise RefusedError(400, "MalformedXML", "You must specify at least one part.")
    if numbers != sorted(set(numbers)):
        raise RefusedError(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    for number, etag in named:
        if number not in upload.parts or upload.parts[number].etag != etag:
            raise RefusedError(400, "InvalidPart", f"Part {number} could not be found or has another ETag.")
    return [upload.parts[number] for number in numbers]


def abort(state: State, call: Call) -> Answer:
    """Give an upload up and free its parts."""
    upload = _upload(state, call)
    del state.bucket(call).uploads[upload.upload_id]
    return Answer(204)


def _upload(state: State, call: Call) -> Upload:
    return state.bucket(call).upload(call.query["uploadId"], call.key)


def list_parts(state: State, call: Call) -> Answer:
    """List the parts of an upload."""
    upload, after = _upload(state, call), int(call.query.get("part-number-marker", "0"))
    numbers = [number for number in sorted(upload.parts) if number > after]
    page = numbers[: call.max_items]
    items = [("Part", _part_entry(number, upload.parts[number])) for number in page]
    is_more = len(page) < len(numbers)
    return xml_answer(
        "ListPartsResult",
        ("Bucket", call.bucket),
        ("Key", call.key),
        ("UploadId", upload.upload_id),
        ("IsTruncated", is_more),
        ("MaxParts", call.max_items),
        *([("NextPartNumberMarker", page[-1])] if is_more else []),
        *items,
    )


def _part_entry(number: int, part: Part) -> list[tuple[str, str | int]]:
    modified = part.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    etag = ("ETag", f'"{part.etag}"')
    return [("PartNumber", number), ("LastModified", modified), etag, ("Size", len(part.data))]
