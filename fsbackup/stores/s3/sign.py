"""Signature Version 4 of one request, as Amazon's "Authenticating Requests (AWS Signature Version 4)" defines it.

Bodies are not hashed for it (``UNSIGNED-PAYLOAD``): Content-MD5, which is signed, and the ETag in the response
protect them. A test holds the signature equal to botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from fsbackup.stores.s3.settings import Secret

#: Headers that a proxy on the way may change.
_NOT_SIGNED = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})


class Signer:
    """Signs requests with one access key for one region.

    Parameters
    ----------
    key_id, secret
        The access key.
    token
        The session token of a temporary access key, None for a permanent one.
    region
        The region to sign for; may be changed when the service names another one.
    """

    def __init__(self, key_id: Secret, secret: Secret, token: Secret | None, region: str) -> None:
        self.region = region
        self._key_id = key_id
        self._secret = secret
        self._token = token
        self._cached: tuple[tuple[str, str], Callable[[], bytes]] | None = None

    def sign(self, method: str, host: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return `headers` with those of the signature.

        `path` and `query` are encoded as they are sent; `query` has its pairs in ascending order.
        """
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {**headers, "Host": host, "X-Amz-Date": now, "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
        if self._token is not None:
            signed["X-Amz-Security-Token"] = self._token.reveal()
        lower = {name.lower(): " ".join(value.split()) for name, value in signed.items()}
        names = sorted(lower.keys() - _NOT_SIGNED)
        listed = ";".join(names)
        canonical = "".join(f"{name}:{lower[name]}\n" for name in names)
        request = f"{method}\n{path}\n{query}\n{canonical}\n{listed}\nUNSIGNED-PAYLOAD"
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(now[:8]), text.encode(), "sha256").hex()
        credential = f"AWS4-HMAC-SHA256 Credential={self._key_id.reveal()}/{scope}"
        return {**signed, "Authorization": f"{credential}, SignedHeaders={listed}, Signature={signature}"}

    def _key(self, day: str) -> bytes:
        """Return the key of one day and region, which takes four hashes to derive."""
        if self._cached is None or self._cached[0] != (day, self.region):
            key = f"AWS4{self._secret.reveal()}".encode()
            for step in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._cached = ((day, self.region), _closure(key))
        return self._cached[1]()


def _closure(key: bytes) -> Callable[[], bytes]:
    """Return a function that returns the key, so that no attribute holds it (as in `Secret`)."""
    return lambda: key
