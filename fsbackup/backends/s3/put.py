"""PUT of a whole object past boto's machinery, which costs more than everything else about a small object.

boto finds the endpoint, emits a dozen events and reads the answer by its model, for each call anew. Here the same
request is made and signed of botocore's public pieces, and goes out by the session that the client itself uses:
its connections, timeouts, certificates and proxies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fsbackup.backends.s3.secret import Secret

#: A name that boto would not read anything else into: an ARN, an S3 Express bucket.
_PLAIN_BUCKET = re.compile(r"(?!.*--)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HEADERS = {"ContentType": "Content-Type", "ContentMD5": "Content-MD5", "IfNoneMatch": "If-None-Match"}
_TOLD = {
    "ETag": "etag",
    "VersionId": "x-amz-version-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
}
#: Answers that say "not here": to find out where is boto's affair.
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})


class DirectPut:
    """``put_object`` of one client, for one endpoint with buckets in its path.

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
        self._here = not {"?", "#"} & set(self._url)

    async def __call__(self, **params: Any) -> dict[str, Any]:
        """Store an object as the client's ``put_object`` does, and return or raise what that would.

        The answer holds what `Commit` asks of it: the ETag, the version, and how it is encrypted.
        """
        if not self._here or not _PLAIN_BUCKET.fullmatch(params["Bucket"]):
            return await self._by_client(params)
        response = await self._session.send(self._request(params))
        status, body = response.status_code, await response.content
        if status < 300 and b"<Error>" not in body:
            return {name: response.headers[header] for name, header in _TOLD.items() if header in response.headers}
        # As boto does: an error under a 200 is the service's fault, and may be tried again.
        status = 500 if status < 300 else status
        parsed = self._parser.parse({"headers": response.headers, "status_code": status, "body": body}, None)
        code = parsed.get("Error", {}).get("Code")
        if status < 400 or code in _ELSEWHERE:
            self._here = False
            return await self._by_client(params)
        raise self._client.exceptions.from_code(code)(parsed, "PutObject")

    async def _by_client(self, params: dict[str, Any]) -> dict[str, Any]:
        if hasattr(params["Body"], "seek"):
            params["Body"].seek(0)
        answer: dict[str, Any] = await self._client.put_object(**params)
        return answer

    def _request(self, params: dict[str, Any]) -> Any:
        from botocore.awsrequest import AWSRequest

        # "/" and "~" stay in keys, and nothing else that could mean something does: as botocore writes them.
        url = f"{self._url}/{params['Bucket']}/{quote(params['Key'], safe='/~')}"
        headers = {header: params[name] for name, header in _HEADERS.items() if name in params}
        headers |= {f"x-amz-meta-{name}": value for name, value in params.get("Metadata", {}).items()}
        headers["User-Agent"] = self._client.meta.config.user_agent
        request = AWSRequest("PUT", url, headers, params["Body"])
        request.context["client_config"] = self._client.meta.config  # says that payloads are not hashed
        self._sign(request)
        return request.prepare()
