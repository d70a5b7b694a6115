"""The HTTP proxy between this machine and a service, as the environment names it."""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fsbackup.stores.s3.settings import Address, Secret

if TYPE_CHECKING:
    from fsbackup.stores.s3.connection import Connection

_PORTS = {"http": 80, "https": 443}
#: User and password in a URL, whatever text it is in.
_USERINFO = re.compile(r"//[^/\s@]+@")


class ProxyError(OSError):
    """The proxy did not connect to the service; `status` is its answer, 0 where it cannot be used at all."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def hide_userinfo(text: str) -> str:
    """Return a text without the users and passwords of the URLs in it."""
    return _USERINFO.sub("//***@", text)


def find_proxy(scheme: str, netloc: str, host: str) -> Proxy | None:
    """Return the proxy for a service, None when there is none or ``NO_PROXY`` excludes the service."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # which spares the import
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    url = proxies.get(scheme) or proxies.get("all")
    if not url or any(proxy_bypass(name) for name in (netloc, host)):
        return None
    return Proxy(url if "://" in url else f"http://{url}")


class Proxy:
    """An HTTP proxy.

    Parameters
    ----------
    url
        ``http://[user:password@]host[:port]``, or with ``https`` where the proxy itself speaks TLS.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.scheme = parts.scheme.lower()
        self.host = parts.hostname or ""
        if self.scheme not in _PORTS or not self.host:
            raise ProxyError("a proxy must be http(s)://[user:password@]host[:port]")
        self.port = parts.port or _PORTS[self.scheme]
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._login = Secret(base64.b64encode(f"{user}:{password}".encode()).decode()) if user else None
        if parts.password:
            self._password = (Secret(parts.password), Secret(password))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        hidden = (self._login, *getattr(self, "_password", ()))
        return tuple(secret.reveal() for secret in hidden if secret is not None)

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is told with each request."""
        return {"Proxy-Authorization": f"Basic {self._login.reveal()}"} if self._login else {}

    @property
    def speaks_tls(self) -> bool:
        """Whether the way to the proxy has TLS, whatever the service has."""
        return self.scheme == "https"

    def open_tunnel(self, connection: Connection, address: Address) -> None:
        """Have the proxy connect to a service (RFC 9110, 9.3.6).

        Raises
        ------
        ProxyError
            When it does not.
        """
        host = f"[{address.host}]" if ":" in address.host else address.host
        target = f"{host}:{address.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        connection.send("\r\n".join([*lines, "", ""]).encode("latin-1"), b"", lambda _: None)
        status = connection.response("CONNECT").status
        if status != 200:
            raise ProxyError(f"the proxy {self.host}:{self.port} answered HTTP {status}", status)
