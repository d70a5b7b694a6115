"""PUT and GET of objects and parts past boto's machinery, which costs more than everything else about a small one.

boto finds the endpoint, emits a dozen events and reads the answer by its model, for each call anew. Here the same
request is made and signed of botocore's public pieces, and goes out by the session that the client itself uses:
its connections, timeouts, certificates and proxies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fsbackup.stores.s3.secret import Secret

#: A name that boto would not read anything else into: an ARN, an S3 Express bucket.
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
#: Answers that say "not here": to find out where is boto's affair.
_REDIRECT_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)


class FastPath:
    """``put_object``, ``upload_part`` and ``get_object`` of one client, for one endpoint with buckets in its path.

    They return or raise what the client's own would. Of the answer they hold what our writers and readers ask for.

    Parameters
    ----------
    client
        The boto client: for its settings, its errors, and all that is not plain.
    session
        The HTTP session that the client uses.
    key_id, key
        How to sign in.
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
        """Store an object; the answer tells the ETag, the version, and how it is encrypted."""
        return await self._put("PutObject", self._client.put_object, params)

    async def upload_part(self, **params: Any) -> dict[str, Any]:
        """Store one part of an upload; the answer tells the ETag, and how it is encrypted."""
        return await self._put("UploadPart", self._client.upload_part, params)

    async def _put(self, operation: str, by_client: Callable[..., Any], params: dict[str, Any]) -> dict[str, Any]:
        response = await self._answer("PUT", operation, params)
        if response is not None:
            return _required_headers(response, _PUT_RESPONSE_HEADERS)
        if hasattr(params["Body"], "seek"):
            params["Body"].seek(0)
        result: dict[str, Any] = await by_client(**params)
        return result

    async def get_object(self, **params: Any) -> dict[str, Any]:
        """Read an object or a range of it; the answer tells the length and the range, and has the body to read."""
        response = await self._answer("GET", "GetObject", params)
        if response is None:
            result: dict[str, Any] = await self._client.get_object(**params)
            return result
        from aiobotocore.response import StreamingBody

        fields = _required_headers(response, _GET_RESPONSE_HEADERS)
        return {**fields, "Body": StreamingBody(response.raw, fields.get("ContentLength"))}

    async def _answer(self, method: str, operation: str, params: dict[str, Any]) -> Any:
        """Return the service's answer when it is a success, None when the client has to ask."""
        if not self._usable or not _PLAIN_BUCKET.fullmatch(params["Bucket"]):
            return None
        response = await self._session.send(self._request(method, params))
        status = response.status_code
        if status < 300 and method == "GET":
            return response
        body = await response.content
        if status < 300 and b"<Error>" not in body:
            return response
        # As boto does: an error under a 200 is the service's fault, and may be tried again.
        status = 500 if status < 300 else status
        parsed = self._parser.parse({"headers": response.headers, "status_code": status, "body": body}, None)
        code = parsed.get("Error", {}).get("Code")
        if status < 400 or code in _REDIRECT_CODES:
            self._usable = False
            return None
        raise self._client.exceptions.from_code(code)(parsed, operation)

    def _request(self, method: str, params: dict[str, Any]) -> Any:
        from botocore.awsrequest import AWSRequest

        # "/" and "~" stay in keys, and nothing else that could mean something does: as botocore writes them.
        url = f"{self._url}/{params['Bucket']}/{quote(params['Key'], safe='/~')}"
        if "UploadId" in params:
            url += f"?partNumber={params['PartNumber']}&uploadId={quote(params['UploadId'], safe='')}"
        headers = {header: params[name] for name, header in _REQUEST_HEADERS.items() if name in params}
        headers |= {f"x-amz-meta-{name}": value for name, value in params.get("Metadata", {}).items()}
        headers["User-Agent"] = self._client.meta.config.user_agent
        request = AWSRequest(method, url, headers, params.get("Body"), stream_output=method == "GET")
        request.context["client_config"] = self._client.meta.config  # says that payloads are not hashed
        self._sign(request)
        return request.prepare()


def _required_headers(response: Any, wanted: Mapping[str, str]) -> dict[str, Any]:
    return {name: response.headers[header] for name, header in wanted.items() if header in response.headers}
