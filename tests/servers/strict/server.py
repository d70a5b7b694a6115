"""The HTTP side: reads a request, has it checked and done, and counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from urllib.parse import urlsplit

from aiohttp import web

from tests.servers.operations import Operation, parse_request
from tests.servers.strict import listing, multipart, objects
from tests.servers.strict.checks import check_call
from tests.servers.strict.messages import Answer, Call, RefusedError, S3Error, error_answer, not_implemented
from tests.servers.strict.providers import Settings
from tests.servers.strict.signature import Credentials, check_signature
from tests.servers.strict.state import State

CONTROL = "/__control__/"

_HANDLERS: dict[Operation, Callable[[State, Call], Answer]] = {
    "list_buckets": listing.list_buckets,
    "create_bucket": listing.create_bucket,
    "head_bucket": listing.head_bucket,
    "delete_bucket": listing.delete_bucket,
    "get_versioning": listing.get_versioning,
    "list": listing.list_objects,
    "list_versions": listing.list_versions,
    "list_uploads": listing.list_uploads,
    "delete_objects": objects.delete_objects,
    "put_object": objects.put_object,
    "copy_object": objects.copy_object,
    "get": objects.get_object,
    "head": objects.head_object,
    "delete": objects.delete_object,
    "create_multipart": multipart.create_multipart,
    "upload_part": multipart.upload_part,
    "complete": multipart.complete,
    "abort": multipart.abort,
    "list_parts": multipart.list_parts,
}


class StrictServer:
    """Answers every request of one server."""

    def __init__(self, state: State, known: Credentials) -> None:
        self._state = state
        self._known = known

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Nobody ever says ``100 Continue`` here: who waits for it waits for ever."""
        body = await request.content.read()
        if urlsplit(request.raw_path).path.startswith(CONTROL):
            return self._control(request, body)
        answer = self._answer(_read_call(request, body))
        response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        if "Connection" in answer.headers:
            response.force_close()
        return response

    def _answer(self, call: Call) -> Answer:
        self._state.requests[call.operation] += 1
        try:
            check_signature(call, self._known)
            check_call(call, self._state.provider)
            if call.operation not in _HANDLERS:
                raise not_implemented(f"{call.method} {call.target}")
            return _HANDLERS[call.operation](self._state, call)
        except S3Error as error:
            if isinstance(error, RefusedError):
                self._state.note_refusal(call, error)
            return error_answer(error, call.key)

    def _control(self, request: web.BaseRequest, body: bytes) -> web.Response:
        action = request.raw_path.removeprefix(CONTROL)
        if request.method == "POST" and action == "reset":
            self._state.reset()
            self._configure(asdict(Settings()))
        if request.method == "POST" and action == "settings":
            self._configure(json.loads(body))
        return web.json_response(self._state.report())

    def _configure(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            setattr(self._state.provider.settings, name, value)


def _read_call(request: web.BaseRequest, body: bytes) -> Call:
    names = {name.lower() for name in request.headers}
    headers = {name: ",".join(request.headers.getall(name)) for name in names}
    asked = parse_request(request.method, request.raw_path, is_copy="x-amz-copy-source" in headers)
    return Call(
        request.method, request.raw_path, asked.operation, asked.bucket, asked.key, asked.query, headers, body
    )
