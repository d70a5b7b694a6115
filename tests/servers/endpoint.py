"""Where an S3 server is and how to sign in, and a plain boto3 client for it."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar


def _moment(text: str) -> datetime:
    """Return the time that XML or a header names; what botocore does instead accepts all that people write."""
    return datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)


# A lock, because a session may make only one client at a time.
_SESSION_LOCK = threading.Lock()


@dataclass(frozen=True)
class S3Endpoint:
    """An S3 server on loopback, with one bucket that exists.

    Attributes
    ----------
    name
        What kind of server it is.
    endpoint_url, access_key_id, secret_access_key, region, bucket
        As an S3 client wants them. The credentials are made up.
    ca_bundle
        The certificate authority to trust, where the server speaks TLS.
    """

    name: str
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str
    bucket: str
    ca_bundle: Path | None = None

    @property
    def backend(self) -> dict[str, Any]:
        """The backend as a configuration file describes it."""
        names = ("endpoint_url", "region", "bucket", "access_key_id", "secret_access_key")
        trusted = {} if self.ca_bundle is None else {"ca_bundle": str(self.ca_bundle)}
        return {"type": "s3", **{name: getattr(self, name) for name in names}, **trusted}


AnyEndpoint = TypeVar("AnyEndpoint", bound=S3Endpoint)


def new_credentials() -> tuple[str, str]:
    """Return an access key id and a secret that no other server of this run knows."""
    return f"test{secrets.token_hex(8)}", secrets.token_hex(20)


def client(endpoint: S3Endpoint) -> Any:
    """Return a boto3 client that sends only what it must and never tries twice; one for all buckets."""
    return _server_client(replace(endpoint, bucket=""))


@lru_cache(maxsize=64)
def _server_client(endpoint: S3Endpoint) -> Any:
    return _client(endpoint, request_checksum_calculation="when_required")


def default_client(endpoint: S3Endpoint) -> Any:
    """Return a boto3 client with botocore's own checksum defaults, as a careless program has it."""
    return _client(endpoint, request_checksum_calculation="when_supported")


def _client(endpoint: S3Endpoint, **config: str) -> Any:
    from botocore.handlers import add_expect_header

    with _SESSION_LOCK:
        made = _make_client(endpoint, config)
    # R2 documents that it never says "100 Continue". A client that asks for it waits for ever.
    made.meta.events.unregister("before-call.s3", add_expect_header)
    return made


@lru_cache(maxsize=1)
def _session() -> Any:
    """Return one session for all: reading botocore's service models takes most of the time that a client needs.

    Imported here, since who is measured beside us need not load it.
    """
    import boto3
    import botocore.session

    core = botocore.session.Session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return boto3.session.Session(botocore_session=core)


def _make_client(endpoint: S3Endpoint, config: dict[str, str]) -> Any:
    from botocore.config import Config

    return _session().client(
        "s3",
        endpoint_url=endpoint.endpoint_url,
        aws_access_key_id=endpoint.access_key_id,
        aws_secret_access_key=endpoint.secret_access_key,
        region_name=endpoint.region,
        verify=str(endpoint.ca_bundle) if endpoint.ca_bundle else None,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=30,
            user_agent="tests",  # else it is put together for each request
            parameter_validation=False,
            response_checksum_validation=config["request_checksum_calculation"],
            **config,
        ),
    )


def fresh_bucket(endpoint: AnyEndpoint) -> AnyEndpoint:
    """Make a new, empty bucket on the same server and return the endpoint that names it."""
    bucket = f"bucket-{secrets.token_hex(8)}"
    client(endpoint).create_bucket(Bucket=bucket)
    return replace(endpoint, bucket=bucket)
