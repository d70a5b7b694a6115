"""The s3fs filesystem of one store and its boto client, on fsbackup's own event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from fsbackup import __version__
from fsbackup.loop import get_loop
from fsbackup.stores.s3.fast_path import FastPath
from fsbackup.stores.s3.secret import Secret

#: Connections per store. More than are ever in flight, because waiting for one counts towards the timeout.
POOL_SIZE = 64
_CONNECT_TIMEOUT = 10.0
#: Seconds after which an idle connection is not used again; servers close theirs later.
_KEEPALIVE = 12.0
#: Bytes that the kernel may hold unsent. Its default is 4 MiB per connection; on a slow line they would leave long
#: after they were counted as moved, and look like a stall. Half as many cost a tenth of an upload's time.
_MAX_UNSENT = 256 * 1024
_AWS_FILES = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}


@dataclass(frozen=True, slots=True)
class Settings:
    """Endpoint and credentials; `timeout` in seconds, `ca_bundle` a file of certificates."""

    endpoint_url: str | None
    region: str
    access_key_id: Secret
    secret_access_key: Secret
    timeout: float
    ca_bundle: str | None = None


class S3Connection:
    """Creates the filesystem on first use, and a new one after a fork, because the loop is a new one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop_and_filesystem: tuple[asyncio.AbstractEventLoop, Any] | None = None
        self._prepared_client: Any = None
        self._fast_path: FastPath | None = None
        self._from_parent_process: list[Any] = []
        #: The HTTP sessions of the clients created, the latest last.
        self._sessions: list[Any] = []

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        return (self._settings.secret_access_key.reveal(), self._settings.access_key_id.reveal())

    @property
    def filesystem(self) -> Any:
        """The ``s3fs.S3FileSystem``."""
        loop = get_loop()
        if self._loop_and_filesystem is None or self._loop_and_filesystem[0] is not loop:
            # A forked child must neither use nor close its parent's sockets, so it keeps a reference.
            self._from_parent_process.append(self._loop_and_filesystem)
            self._sessions.clear()
            plain = (self._settings.endpoint_url or "").startswith("http:")
            self._loop_and_filesystem = (
                loop,
                _filesystem(self._settings, loop, _session_class(self._sessions, plain=plain)),
            )
        return self._loop_and_filesystem[1]

    async def client(self) -> Any:
        """Return the boto client; to be awaited on fsbackup's loop."""
        client = await self.filesystem.set_session()
        if client is not self._prepared_client:
            client.meta.events.register_last("before-call.s3", _without_expect)
            self._prepared_client, self._fast_path = client, self._make_fast_path(client)
        return client

    async def method(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Return one of the client's methods; `FastPath` has its own for some where an endpoint is set."""
        client = await self.client()
        found: Callable[..., Awaitable[Any]] = getattr(self._fast_path, name, None) or getattr(client, name)
        return found

    def _make_fast_path(self, client: Any) -> FastPath | None:
        settings = self._settings
        if settings.endpoint_url is None:  # Amazon S3, where the host depends on the bucket
            return None
        return FastPath(client, self._sessions[-1], settings.access_key_id, settings.secret_access_key)

    async def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._loop_and_filesystem is not None and self._loop_and_filesystem[0] is get_loop():
            filesystem, self._loop_and_filesystem, self._prepared_client, self._fast_path = (
                self._loop_and_filesystem[1],
                None,
                None,
                None,
            )
            await (await filesystem.set_session()).close()


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    """Send bodies at once: R2 does not support ``Expect: 100-continue``, and aiohttp would wait for its answer."""
    params["headers"].pop("Expect", None)


def _session_class(sessions: list[Any], *, plain: bool) -> type:
    """Return the class of a client's HTTP sessions, each appended to `sessions`; `plain` ones have no TLS."""
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):  # type: ignore[misc]  # the library has no types
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            sessions.append(self)

        def _build_ssl_contexts(self, proxy_url: str | None) -> Any:
            """Load no certificates without TLS, which saves 12 ms per client."""
            return (True, None) if plain and not proxy_url else super()._build_ssl_contexts(proxy_url)

    return Session


def _filesystem(settings: Settings, loop: asyncio.AbstractEventLoop, session_class: type) -> Any:
    from s3fs import S3FileSystem

    filesystem = S3FileSystem(
        anon=False,
        session=_session(settings),
        endpoint_url=settings.endpoint_url,
        client_kwargs=_client_options(settings),
        config_kwargs={**_config_options(settings), "http_session_cls": session_class},
        fixed_upload_size=True,  # R2 requires parts of one size
        use_listings_cache=False,
        skip_instance_cache=True,
        default_cache_type="none",
        asynchronous=False,
        loop=loop,
    )
    filesystem.retries = 1
    return filesystem


def _session(settings: Settings) -> Any:
    """Return a session with the credentials; in the filesystem, `storage_options` would show them."""
    from aiobotocore.session import AioSession

    # The machine's AWS configuration is not for fsbackup; its profile may not even exist.
    nothing = {name: (None, None, value, None) for name, value in _AWS_FILES.items()}
    session = AioSession(session_vars=nothing)
    session.register_component("data_loader", _loader())
    session.set_credentials(settings.access_key_id.reveal(), settings.secret_access_key.reveal())
    return session


@cache
def _loader() -> Any:
    """Return the shared loader of botocore's S3 model, which saves 50 ms for each further client."""
    from botocore.loaders import Loader

    class OnlyS3(Loader):  # type: ignore[misc]  # the library has no types
        def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002
            """Return only S3; listing all services takes 2,600 file system calls."""
            return ["s3"]

    return OnlyS3()


def _client_options(settings: Settings) -> dict[str, Any]:
    trusted = {"verify": settings.ca_bundle} if settings.ca_bundle else {}
    return {"region_name": settings.region, **trusted}


def _config_options(settings: Settings) -> dict[str, Any]:
    return {
        # R2 and B2 refuse the checksum headers that botocore adds by default; every body has a Content-MD5.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        # `Calls` retries. In addition, aiohttp repeats a PUT, GET, HEAD or DELETE once when the connection broke.
        # That cannot be disabled and is harmless: all may be repeated, and creates carry an upload tag.
        "retries": {"total_max_attempts": 1},
        "parameter_validation": False,  # saves a tenth of a small request
        "connect_timeout": min(_CONNECT_TIMEOUT, settings.timeout),
        "read_timeout": settings.timeout,
        "max_pool_connections": POOL_SIZE,
        "connector_args": {"socket_factory": _socket, "keepalive_timeout": _KEEPALIVE},
        "signature_version": "s3v4",
        # Not hashed a second time: Content-MD5 and the ETag in the response protect the body.
        "s3": {"payload_signing_enabled": False, "addressing_style": "path"},
        "user_agent": f"fsbackup/{__version__}",  # botocore would build its own for every call
    }


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Return the socket of one connection; `address` is as from `socket.getaddrinfo`."""
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    with suppress(AttributeError, OSError):  # not every system has the option
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT)
    return sock
