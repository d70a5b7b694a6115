"""The control plane: the s3fs filesystem of one bucket and its boto client, on fsbackup's own event loop.

It serves what people do with `.fs`. Importing it takes 0.6 s, so it is created when it is needed. Neither fsspec's
nor AWS's own configuration on this machine has an effect on it: the settings of the store are all there are.

Beside it `service_info` asks, in the data plane, for what people want to know of a bucket beyond its objects.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import wait
from contextlib import aclosing
from functools import cache, partial
from typing import Any
from xml.etree.ElementTree import Element

from fsbackup.errors import AccessDeniedError, BackendError, FsbackupError
from fsbackup.loop import get_loop
from fsbackup.stores.base import BackendInfo
from fsbackup.stores.s3.bucket import Bucket, iso_time
from fsbackup.stores.s3.errors import code_of
from fsbackup.stores.s3.listing import list_uploads, read_page
from fsbackup.stores.s3.requests import Request
from fsbackup.stores.s3.settings import Settings

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
    # fsspec's configuration gives the arguments that nobody passes: so all of them are passed.
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
        # Who uses `.fs` decides what is tried again; aiohttp repeats it once on a closed connection.
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


#: What each provider's users get wrong most often. By Cloudflare's "Consistency model" (a new key takes up to a
#: minute) and Backblaze's "Introduction to the S3-Compatible API" (no master key; what a restricted key needs).
_ACCESS_HINTS = {
    "r2": "if the keys work elsewhere, check that the R2 token covers the bucket {bucket!r} with Object Read &"
    " Write and the account id in the endpoint is the bucket's; a new token takes up to a minute to work",
    "b2": "use an application key, not the master key; it needs listFiles, readFiles, writeFiles and deleteFiles"
    " for the bucket {bucket!r}, and listAllBucketNames when it is restricted to one; check the region",
}
_DEFAULT_ACCESS_HINT = (
    "check that these keys may list, read, write and delete in the bucket {bucket!r}, and that the region is right"
)
#: Seconds.
_DAY = 86_400
#: Most unfinished uploads that are counted.
_COUNTED = 1000
#: Error codes for a setting that does not exist, and for a request that the service does not implement.
_NOT_CONFIGURED = frozenset({"NoSuchLifecycleConfiguration"})
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405"})

Query = Callable[[Bucket], Awaitable[dict[str, Any]]]


async def service_info(bucket: Bucket) -> BackendInfo:
    """Make all requests at once."""
    queries: dict[str, Query] = {
        "clock_ahead": _clock,
        "keeps_versions": _versions,
        "uploads": _uploads,
        "expires": _expires,
    }
    results = await asyncio.gather(*(_run_query(bucket, name, query) for name, query in queries.items()))
    known = {name: value for found, _ in results for name, value in found.items()}
    unknown = {"free": "the service does not report it"} | {
        name: why for _, bad in results for name, why in bad.items()
    }
    access = _ACCESS_HINTS.get(bucket.profile.scheme, _DEFAULT_ACCESS_HINT).format(bucket=bucket.name)
    return BackendInfo(**known, access=access, unknown=unknown)


async def _run_query(bucket: Bucket, name: str, query: Query) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields found, or by name why a field is not known."""
    try:
        return await query(bucket), {}
    except AccessDeniedError:
        return {}, {name: "these credentials may not ask for it"}
    except FsbackupError as error:
        offered = code_of(error) not in _NOT_OFFERED
        return {}, {name: error.message if offered else "the service does not implement the request"}


async def _ask(bucket: Bucket, subresource: str, tag: str) -> Element:
    context = bucket.context("examine", "")
    request = Request("GET", query=((subresource, ""),))
    return (await bucket.send(context, request, lambda response: read_page(response, tag, context))).content


async def _clock(bucket: Bucket) -> dict[str, Any]:
    """Ask for an answer, each of which tells the service's time; a refusal does, too."""
    try:
        await bucket.head_bucket(bucket.context("examine", ""))
    except BackendError:
        if bucket.clock_skew is None:
            raise
    skew = bucket.clock_skew
    return {"clock_ahead": None if skew is None else -skew}


async def _versions(bucket: Bucket) -> dict[str, Any]:
    response = await _ask(bucket, "versioning", "VersioningConfiguration")
    # "Suspended" keeps old versions, but no new ones.
    return {"keeps_versions": response.findtext("Status") == "Enabled"}


async def _uploads(bucket: Bucket) -> dict[str, Any]:
    begun = list[float]()
    async with aclosing(list_uploads(bucket)) as uploads:  # type: ignore[type-var]  # a generator
        async for _, _, started in uploads:
            begun.append(started)
            if len(begun) == _COUNTED:
                break
    return {"uploads": len(begun), "oldest_upload": min(begun, default=None)}


async def _expires(bucket: Bucket) -> dict[str, Any]:
    rules: Iterable[Element] = ()
    try:
        rules = (await _ask(bucket, "lifecycle", "LifecycleConfiguration")).iterfind("Rule")
    except BackendError as error:
        if code_of(error) not in _NOT_CONFIGURED:
            raise
    days = [_days(rule) for rule in rules if _applies_to(rule, bucket.prefix)]
    return {"expires": tuple(sorted(each for each in days if each is not None))}


def _applies_to(rule: Element, prefix: str) -> bool:
    """Tell whether a rule may delete objects below `prefix`; fsbackup's objects have no tags."""
    places = ("Prefix", "Filter/Prefix", "Filter/And/Prefix")
    rule_prefix = next((text for place in places if (text := rule.findtext(place))), "")
    has_tags = any(rule.find(place) is not None for place in ("Filter/Tag", "Filter/And/Tag"))
    return (
        rule.findtext("Status") == "Enabled"
        and not has_tags
        and (prefix.startswith(rule_prefix) or rule_prefix.startswith(prefix))
    )


def _days(rule: Element) -> int | None:
    """Return after how many days a rule deletes objects; a rule for one date counts from now."""
    days, date = rule.findtext("Expiration/Days", ""), iso_time(rule.findtext("Expiration/Date"))
    if date is not None:
        return max(0, int(date - time.time()) // _DAY)
    return int(days) if days.isdecimal() else None
