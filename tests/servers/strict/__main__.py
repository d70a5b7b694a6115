"""Run one strict server until it is told to stop, or whoever started it is gone."""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
from pathlib import Path

import trustme
from aiohttp import web

from tests.servers.strict.providers import Settings, make_provider
from tests.servers.strict.server import StrictServer
from tests.servers.strict.signature import Credentials
from tests.servers.strict.state import State
from tests.servers.strict.store import Bucket


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.strict", description=__doc__)
    parser.add_argument("--provider", choices=["r2", "b2"], required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca-file", type=Path, required=True, help="where to write the CA to trust")
    parser.add_argument("--bucket", required=True, help="a bucket that exists from the start")
    parser.add_argument("--access-key-id", required=True)
    parser.add_argument("--secret-access-key", required=True)
    return parser.parse_args()


def _tls(host: str, ca_file: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host, "localhost").configure_cert(context)
    unfinished = ca_file.with_suffix(".new")
    authority.cert_pem.write_to_path(str(unfinished))
    unfinished.rename(ca_file)
    return context


async def _serve(arguments: argparse.Namespace) -> None:
    provider = make_provider(arguments.provider, Settings())
    state = State(provider, {arguments.bucket: Bucket()})
    known = Credentials(arguments.access_key_id, arguments.secret_access_key, provider.regions)
    # A metadata header that is too long must reach our own check.
    runner = web.ServerRunner(web.Server(StrictServer(state, known), max_field_size=64 * 1024))
    await runner.setup()
    tls = _tls(arguments.host, arguments.ca_file)
    await web.TCPSite(runner, arguments.host, arguments.port, ssl_context=tls, shutdown_timeout=0.1).start()
    await _until_stopped()
    await runner.cleanup()


async def _until_stopped() -> None:
    """Wait for SIGTERM, or for standard input to end because the parent process has."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_reader(sys.stdin, stopped.set)
    await stopped.wait()
    loop.remove_reader(sys.stdin)


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
