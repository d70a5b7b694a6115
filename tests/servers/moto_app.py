"""moto's S3 server made to answer as a store does: one request after the other, each whole or not at all.

By itself moto shows a new object before its metadata is set, checks `If-None-Match` and stores in two steps, and
two requests that ask at once for the ETag of a new object read the same buffer and may both get a wrong one.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from contextlib import closing
from threading import Lock
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


class OneAtATime:
    """A WSGI application that takes up a request when the one before is answered; bodies arrive side by side."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Receive the request's body, then answer it alone."""
        length = environ.get("CONTENT_LENGTH")
        if length or environ.get("wsgi.input_terminated"):
            environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(length) if length else -1))
        with self._lock, closing(self._app(environ, start_response)) as answer:
            return list(answer)


if __name__ == "__main__":
    run_simple(
        sys.argv[1],
        int(sys.argv[2]),
        OneAtATime(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
