"""What an S3 store is opened with: credentials that nothing shows and requests are signed with, address, proxy."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

from fsbackup.errors import ConfigError
from fsbackup.redact import hide, hide_misplaced
from fsbackup.stores.s3.errors import ProxyError

#: Where the bucket's name is in a URL: first in the path, or first in the host's name.
Addressing = Literal["path", "virtual"]

#: A bucket's name that is also a label of a host's name: with a dot in it, TLS certificates do not match.
_HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: A key of which nothing is quoted.
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.~/-]+")
#: Headers that a proxy on the way may change.
_NOT_SIGNED = frozenset({"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})


class Secret:
    """Holds a text that only `reveal` gives back."""

    __slots__ = ("reveal",)

    def __init__(self, text: str) -> None:
        hide(text)
        self.reveal: Callable[[], str] = lambda: text  # a closure, so that no attribute holds the text itself

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled; create the backend where it is used, from the environment")


@dataclass(frozen=True, slots=True)
class Settings:
    """Endpoint and credentials of one bucket.

    Parameters
    ----------
    endpoint_url
        The service's URL; None for Amazon S3 itself.
    bucket, region
        The bucket, and the region to sign for.
    access_key_id, secret_access_key, session_token
        The credentials; `session_token` only with a temporary key.
    timeout
        Longest time in seconds without a byte moved.
    ca_bundle
        A PEM file of the authorities to trust instead of the system's.
    addressing
        Where the bucket's name is; None: in the path where there is an `endpoint_url`, else in the host's name
        unless it has dots.
    """

    endpoint_url: str | None
    bucket: str
    region: str
    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None
    timeout: float
    ca_bundle: str | None = None
    addressing: Addressing | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        hidden = (self.secret_access_key, self.session_token, self.access_key_id)
        return tuple(secret.reveal() for secret in hidden if secret is not None)

    @property
    def url(self) -> str:
        """The service's URL, Amazon's own by default (AWS General Reference, "Amazon S3 endpoints and quotas")."""
        domain = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return self.endpoint_url or f"https://s3.{self.region}.{domain}"

    @property
    def is_virtual(self) -> bool:
        """Whether the bucket's name is in the host's name."""
        default = "path" if self.endpoint_url else "virtual"
        return (self.addressing or default) == "virtual" and _HOST_LABEL.fullmatch(self.bucket) is not None


class Address:
    """Where the requests for one bucket go, and what they name there."""

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.url)
        if parts.hostname is None:
            raise ValueError("the URL has no host")
        self.scheme = parts.scheme
        self.host = f"{settings.bucket}.{parts.hostname}" if settings.is_virtual else parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[parts.scheme]
        base = quote(parts.path.rstrip("/"), safe="/~%")
        self._base = base if settings.is_virtual else f"{base}/{quote(settings.bucket, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        #: Host and port as in a Host header: no default port, an IPv6 address in brackets.
        self.netloc = host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def path(self, key: str) -> str:
        """Return the encoded path of an object, of the bucket itself without a key."""
        if _PLAIN_KEY.fullmatch(key):
            return f"{self._base}/{key}"
        # As every S3 client: everything in a key is quoted except "/" and the unreserved characters.
        return f"{self._base}/{quote(key, safe='/~', errors='surrogateescape')}" if key else self._base or "/"


def find_proxy(scheme: str, netloc: str, host: str) -> Proxy | None:
    """Return the proxy for a service, None when there is none or ``NO_PROXY`` excludes the service."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # which spares the import
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or any(proxy_bypass(name) for name in (netloc, host)) or _is_in(proxies.get("no", ""), host):
        return None
    return Proxy(url if "://" in url else f"http://{url}")


def _is_in(networks: str, host: str) -> bool:
    """Tell whether a host is an address in one of the networks (``10.0.0.0/8``) that ``NO_PROXY`` names."""
    from ipaddress import ip_address, ip_network

    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    for each in networks.split(","):
        with suppress(ValueError):
            if "/" in each and address in ip_network(each.strip(), strict=False):
                return True
    return False


def _parts_of(url: str) -> SplitResult | None:
    """Return the parts of a URL, None where it has none or its port is no number; the error would quote it."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - which reads it
    except ValueError:
        return None
    return parts


class Proxy:
    """An HTTP proxy.

    Parameters
    ----------
    url
        ``http://[user:password@]host[:port]``, or with ``https`` where the proxy itself speaks TLS.
    """

    def __init__(self, url: str) -> None:
        parts = _parts_of(url)
        if parts is None or parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ProxyError("a proxy must be http(s)://[user:password@]host[:port]")
        self.scheme, self.host = parts.scheme, parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[self.scheme]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._login = Secret(base64.b64encode(f"{user}:{password}".encode()).decode()) if user else None
        self._password = (Secret(parts.password), Secret(password)) if parts.password else ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        hidden = (self._login, *self._password)
        return tuple(secret.reveal() for secret in hidden if secret is not None)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is told with each request."""
        return {"Proxy-Authorization": f"Basic {self._login.reveal()}"} if self._login else {}

    @property
    def speaks_tls(self) -> bool:
        """Whether the way to the proxy has TLS, whatever the service has."""
        return self.scheme == "https"


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a query string, its pairs encoded and in the order that the signature demands."""
    encoded = sorted((_quote(name), _quote(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _quote(text: str) -> str:
    return quote(text, safe="-_.~", errors="surrogateescape")


class Signer:
    """Signs requests with one access key for one region, by Signature Version 4.

    As Amazon's "Authenticating Requests (AWS Signature Version 4)" defines it; a test holds the signature equal to
    botocore's. Bodies are not hashed for it (``UNSIGNED-PAYLOAD``): Content-MD5, which is signed, and the ETag in
    the response protect them.

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
        self._cached: tuple[tuple[str, str], Callable[[], hmac.HMAC]] | None = None

    def sign(self, method: str, host: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return `headers` with those of the signature.

        `path` and `query` are encoded as they are sent; `query` has its pairs in ascending order.
        """
        now = _second(int(time.time()))
        signed = {**headers, "Host": host, "X-Amz-Date": now, "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
        if self._token is not None:
            signed["X-Amz-Security-Token"] = self._token.reveal()
        lower = sorted((name.lower(), " ".join(value.split())) for name, value in signed.items())
        kept = [pair for pair in lower if pair[0] not in _NOT_SIGNED]
        listed = ";".join([name for name, _ in kept])
        canonical = "".join([f"{name}:{value}\n" for name, value in kept])
        request = f"{method}\n{path}\n{query}\n{canonical}\n{listed}\nUNSIGNED-PAYLOAD"
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signing = self._key(now[:8]).copy()
        signing.update(text.encode())
        signature = signing.hexdigest()
        credential = f"AWS4-HMAC-SHA256 Credential={self._key_id.reveal()}/{scope}"
        return {**signed, "Authorization": f"{credential}, SignedHeaders={listed}, Signature={signature}"}

    def _key(self, day: str) -> hmac.HMAC:
        """Return the key of one day and region, which takes four hashes to derive, ready to be copied."""
        if self._cached is None or self._cached[0] != (day, self.region):
            key = f"AWS4{self._secret.reveal()}".encode()
            for step in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            self._cached = ((day, self.region), _closure(hmac.new(key, digestmod="sha256")))
        return self._cached[1]()


@lru_cache(maxsize=2)
def _second(when: int) -> str:
    """Return epoch seconds as signatures have them."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(when))


def _closure(key: hmac.HMAC) -> Callable[[], hmac.HMAC]:
    """Return a function that returns the key, so that no attribute holds it (as in `Secret`)."""
    return lambda: key


class Argument(NamedTuple):
    """The value passed by the caller, and the environment variable used without one."""

    value: str | None
    variable: str | None = None

    @property
    def resolved(self) -> str | None:
        """The value, from its variable where the caller passed none."""
        if self.value is not None or self.variable is None:
            return self.value
        return os.environ.get(self.variable)


def resolve(backend: str, **arguments: Argument) -> dict[str, Any]:
    """Return the value of each argument, from its environment variable where the caller passed none.

    Raises
    ------
    ConfigError
        When arguments have no value; names all of them and their variables.
    """
    values = {name: argument.resolved for name, argument in arguments.items()}
    missing = [_label(name, arguments[name]) for name, value in values.items() if not value]
    if missing:
        raise ConfigError(
            f"missing: {', '.join(missing)}", backend=backend, hint="pass the arguments or set the variables"
        )
    return {name: value for name, value in values.items() if value}


def _label(name: str, argument: Argument) -> str:
    return f"{name} ({argument.variable})" if argument.variable else name


def check_endpoint(backend: str, url: str | None) -> str | None:
    """Return `url` if it is a plain web address; it is shown to people, so it must not contain a password."""
    hide_misplaced(url)
    parts = _parts_of(url or "https://any")
    plain = parts and parts.scheme in _DEFAULT_PORTS and parts.hostname and "@" not in parts.netloc
    if not parts or not plain or parts.query or parts.fragment:
        raise ConfigError(
            "endpoint_url must be http(s)://host[:port][/path], without a user, password or query", backend=backend
        )
    return url


def check_addressing(backend: str, addressing: str | None) -> None:
    """Raise `ConfigError` for a way of addressing that does not exist."""
    if addressing not in (None, "path", "virtual"):
        raise ConfigError(f"addressing must be path or virtual, not {addressing!r}", backend=backend)


def check_positive(backend: str, **numbers: float) -> None:
    """Raise `ConfigError` for a number that is not above zero."""
    for name, value in numbers.items():
        if value <= 0:
            raise ConfigError(f"{name} must be above zero, not {value:g}", backend=backend)
