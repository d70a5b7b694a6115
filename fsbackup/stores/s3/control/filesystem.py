"""The s3fs filesystem of one bucket and its boto client, on fsbackup's own event loop.

It serves what people do with `.fs`. Importing it takes 0.6 s, so it is created when it is needed. Neither fsspec's
nor AWS's own configuration on this machine has an effect on it: the settings of the store are all there are.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
from concurrent.futures import wait
from functools import cache, partial
from typing import Any

from fsbackup.loop import get_loop
from fsbackup.stores.s3.http.settings import Settings

_CONNECT_TIMEOUT = 10.0
_CONNECTIONS = 64
#: Seconds that a collected filesystem may take to close its connections, as s3fs has it.
_CLOSE_TIMEOUT = 0.1


class Control:
    """Creates the filesystem on first use, and a new one after a fork, because the loop is a new one."""

    def __init__(self, settings: Settings, user_agent: str) -> None:
        self._settings = settings
        self._user_agent = user_agent
        self._loop_and_filesystem: tuple[asyncio.AbstractEventLoop, Any] | None = None
        self._from_parent_process: list[Any] = []

    @property
    def filesystem(self) -> Any:
        """The ``s3fs.S3FileSystem``."""
        loop = get_loop()
        if self._loop_and_filesystem is None or self._loop_and_filesystem[0] is not loop:
            # A forked child must neither use nor close its parent's sockets, so it keeps a reference.
            self._from_parent_process.append(self._loop_and_filesystem)
            self._loop_and_filesystem = (loop, _filesystem(self._settings, loop, self._user_agent))
        return self._loop_and_filesystem[1]

    async def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        if self._loop_and_filesystem is not None and self._loop_and_filesystem[0] is get_loop():
            filesystem = self._loop_and_filesystem[1]
            self._loop_and_filesystem = None
            await (await filesystem.set_session()).close()


def _prepare_request(params: dict[str, Any], **_: Any) -> None:
    """Send bodies at once, and only to this host.

    R2 does not support ``Expect: 100-continue``, and aiohttp would wait for its answer. botocore sends a request
    for a bucket in another region again, to that region's host.
    """
    params["headers"].pop("Expect", None)
    params["context"].setdefault("s3_redirect", {})["redirected"] = True


def _filesystem(settings: Settings, loop: asyncio.AbstractEventLoop, user_agent: str) -> Any:
    from s3fs import S3FileSystem

    options = {
        "anon": False,
        "session": _session(settings),
        "endpoint_url": settings.url,
        "client_kwargs": {"region_name": settings.region, "verify": _authorities(settings)},
        "config_kwargs": _config_options(settings, user_agent),
        "fixed_upload_size": True,  # R2 requires parts of one size
        "use_listings_cache": False,
        "skip_instance_cache": True,
        "default_cache_type": "none",
        "asynchronous": False,
        "loop": loop,
    }
    # fsspec's configuration supplies the arguments that are not passed: so all of them are passed.
    parameters = inspect.signature(S3FileSystem.__init__).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    filesystem = S3FileSystem(**{**defaults, **options})
    filesystem.storage_options = {name: value for name, value in options.items() if name != "skip_instance_cache"}
    filesystem.retries = 1
    # What s3fs calls when the filesystem is collected; its own closes on whichever loop runs in that thread.
    filesystem.close_session = partial(_close_session, os.getpid())
    return filesystem


def _close_session(pid: int, loop: asyncio.AbstractEventLoop, session: Any) -> None:
    """Close the connections on the loop that they belong to; a forked child leaves them to its parent."""
    if pid != os.getpid() or not loop.is_running():
        return
    closing = asyncio.run_coroutine_threadsafe(_exit(session), loop)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        wait([closing], _CLOSE_TIMEOUT)  # maybe at the end of the process, when the loop ends as well


async def _exit(session: Any) -> None:
    await session.__aexit__(None, None, None)


def _session(settings: Settings) -> Any:
    """Return a session with the credentials; in the filesystem, `storage_options` would show them."""
    from aiobotocore.session import AioSession
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES

    # Neither the environment nor AWS's files are read: a profile that they name may not even exist.
    known = {name: (None, None, *rest) for name, (_, _, *rest) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items()}
    files = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    session = AioSession(session_vars={**known, **files, "profile": (None, None, None, None)})
    session.register_component("data_loader", _loader())
    session.get_component("event_emitter").register_last("before-call.s3", _prepare_request)
    token = settings.session_token.reveal() if settings.session_token else None
    session.set_credentials(settings.access_key_id.reveal(), settings.secret_access_key.reveal(), token)
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


def _authorities(settings: Settings) -> str | bool:
    """Return the certificates to trust: as in the data plane, the system's and not botocore's own."""
    return settings.ca_bundle or ssl.get_default_verify_paths().cafile or True


def _config_options(settings: Settings, user_agent: str) -> dict[str, Any]:
    return {
        # R2 and B2 refuse the checksum headers that botocore adds by default.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        # The user of `.fs` decides what is retried; aiohttp retries once on a closed connection.
        "retries": {"total_max_attempts": 1},
        "parameter_validation": False,  # saves a tenth of a small request
        "connect_timeout": min(_CONNECT_TIMEOUT, settings.timeout),
        "read_timeout": settings.timeout,
        "max_pool_connections": _CONNECTIONS,
        "signature_version": "s3v4",
        "s3": {
            "payload_signing_enabled": False,
            "addressing_style": "virtual" if settings.is_virtual else "path",
        },
        "user_agent": user_agent,  # botocore would build its own for every call
        "use_dualstack_endpoint": False,
        "use_fips_endpoint": False,
        "http_session_cls": _session_class(is_plain=settings.url.startswith("http:")),
    }


@cache
def _session_class(*, is_plain: bool) -> type:
    """Return the class of a client's HTTP sessions; those to a `is_plain` endpoint have no TLS."""
    from aiobotocore.httpsession import AIOHTTPSession

    class Session(AIOHTTPSession):  # type: ignore[misc]  # the library has no types
        def _build_ssl_contexts(self, proxy_url: str | None) -> Any:
            """Load no certificates without TLS, which saves 12 ms per client."""
            return (True, None) if is_plain and not proxy_url else super()._build_ssl_contexts(proxy_url)

        async def _get_session(self, proxy_url: str | None) -> Any:
            return _WithoutRedirects(await super()._get_session(proxy_url))

    return Session


class _WithoutRedirects:
    """A session of aiohttp that follows no redirect: bodies would go to a host that no configuration names."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:
        """Make a request."""
        return await self._session.request(*arguments, **options, allow_redirects=False)
