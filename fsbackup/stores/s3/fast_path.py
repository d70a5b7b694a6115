"""PutObject, UploadPart and GetObject without the boto client, whose overhead dominates a small request.

For each call, boto resolves the endpoint, emits a dozen events and parses the response by its model. This module
builds and signs the same request with botocore's public classes, and sends it through the client's own HTTP
session: its connections, timeouts, certificates and proxies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fsbackup.stores.s3.secret import Secret

#: A name that boto does not treat specially, as it does an ARN or an S3 Express bucket.
_PLAIN_BUCKET = re.compile(r"(?!.*--)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REQUEST_HEADERS = {
    "ContentType": "Content-Type",
    "ContentMD5": "Content-MD5",
    "IfNoneMatch": "If-None-Match",
    "Range": "Range",
}
_PUT_RESPONSE_HEADERS = {
    "ETag": "etag",
    "VersionId": "x-amz-version-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
}
_GET_RESPONSE_HEADERS = {"ContentLength": "content-length", "ContentRange": "content-range"}
#: Error codes of a redirect, which boto follows.
_REDIRECT_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)


class FastPath:
    """``put_object``, ``upload_part`` and ``get_object`` of one client, for one endpoint with buckets in its path.

    They return or raise the same as the client's own. Responses contain only the fields that readers and writers
    use.

    Parameters
    ----------
    client
        The boto client: for its settings and errors, and for requests that this class does not support.
    session
        The HTTP session that the client uses.
    key_id, key
        The credentials.
    """

    def __init__(self, client: Any, session: Any, key_id: Secret, key: Secret) -> None:
        from botocore.auth import S3SigV4Auth
        from botocore.credentials import Credentials
        from botocore.parsers import create_parser

        self._client = client
        self._session = session
        self._parser = create_parser("rest-xml")
        signer = S3SigV4Auth(Credentials(key_id.reveal(), key.reveal()), "s3", client.meta.region_name)
        self._sign: Callable[[Any], Any] = lambda request: signer.add_auth(request)  # a closure, as in `Secret`
        self._url = client.meta.endpoint_url.removesuffix("/")
        self._usable = not {"?", "#"} & set(self._url)

    async def put_object(self, **params: Any) -> dict[str, Any]:
        """Store an object; the response contains ETag, version and encryption."""
        return await self._put("PutObject", self._client.put_object, params)

    async def upload_part(self, **params: Any) -> dict[str, Any]:
        """Store one part of an upload; the response contains ETag and encryption."""
        return await self._put("UploadPart", self._client.upload_part, params)

    async def _put(self, operation: str, by_client: Callable[..., Any], params: dict[str, Any]) -> dict[str, Any]:
        response = await self._response("PUT", operation, params)
        if response is not None:
            return _required_headers(response, _PUT_RESPONSE_HEADERS)
        if hasattr(params["Body"], "seek"):
            params["Body"].seek(0)
        result: dict[str, Any] = await by_client(**params)
        return result

    async def get_object(self, **params: Any) -> dict[str, Any]:
        """Read an object or a range of it; the response contains length, range and body."""
        response = await self._response("GET", "GetObject", params)
        if response is None:
            result: dict[str, Any] = await self._client.get_object(**params)
            return result
        from aiobotocore.response import StreamingBody

        fields = _required_headers(response, _GET_RESPONSE_HEADERS)
        return {**fields, "Body": StreamingBody(response.raw, fields.get("ContentLength"))}

    async def _response(self, method: str, operation: str, params: dict[str, Any]) -> Any:
        """Return the response of a success, None when the boto client has to make the request."""
        if not self._usable or not _PLAIN_BUCKET.fullmatch(params["Bucket"]):
            return None
        response = await self._session.send(self._request(method, params))
        status = response.status_code
        if status < 300 and method == "GET":
            return response
        body = await response.content
        if status < 300 and b"<Error>" not in body:
            return response
        # As in boto: an error with status 200 is a server error and may be retried.
        status = 500 if status < 300 else status
        parsed = self._parser.parse({"headers": response.headers, "status_code": status, "body": body}, None)
        code = parsed.get("Error", {}).get("Code")
        if status < 400 or code in _REDIRECT_CODES:
            self._usable = False
            return None
        raise self._client.exceptions.from_code(code)(parsed, operation)

    def _request(self, method: str, params: dict[str, Any]) -> Any:
        from botocore.awsrequest import AWSRequest

        # As in botocore: everything in a key is quoted except "/" and "~".
        url = f"{self._url}/{params['Bucket']}/{quote(params['Key'], safe='/~')}"
        if "UploadId" in params:
            url += f"?partNumber={params['PartNumber']}&uploadId={quote(params['UploadId'], safe='')}"
        headers = {header: params[name] for name, header in _REQUEST_HEADERS.items() if name in params}
        headers |= {f"x-amz-meta-{name}": value for name, value in params.get("Metadata", {}).items()}
        headers["User-Agent"] = self._client.meta.config.user_agent
        request = AWSRequest(method, url, headers, params.get("Body"), stream_output=method == "GET")
        request.context["client_config"] = self._client.meta.config  # disables hashing the payload
        self._sign(request)
        return request.prepare()


def _required_headers(response: Any, wanted: Mapping[str, str]) -> dict[str, Any]:
    return {name: response.headers[header] for name, header in wanted.items() if header in response.headers}
