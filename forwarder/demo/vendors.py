"""Two small stand-in vendors on loopback, as far as the demo meets them: a data plane, and Courier's REST API.

Each tells what arrived. The data plane can be down; Courier can fail or lose a share of its answers.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import orjson
from aiohttp import web

from forwarder.demo.call_stream import AD_HOC, INVOKE, JOIN, MERGE, Effect, Json

_TENANT = "/tenants/{tenant}"
# Operation → what matches its method and path.
_OPERATIONS = {
    operation: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation))
    for operation in (MERGE, AD_HOC, INVOKE, f"GET {_TENANT}", f"PUT {_TENANT}", JOIN)
}


@asynccontextmanager
async def listening(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Serve on a free port of loopback inside; give the base URL, as the daemon's setting wants it."""
    server = web.Server(answer, access_log=None)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        await server.shutdown(0.001)  # zero would mean "for ever" to aiohttp


class DataPlane:
    """A gateway that takes every batch with its write key, unless it is down."""

    def __init__(self, write_key: str) -> None:
        self.is_down = False
        self.on_stored: Callable[[Json], None] = lambda _event: None
        self._authorization = aiohttp.encode_basic_auth(write_key, "")

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Take one request."""
        body = await request.read()
        if self.is_down:  # as the load balancer in front of a restarting gateway says it
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "1"})
        if request.headers.get("Authorization") != self._authorization:
            return web.Response(status=HTTPStatus.UNAUTHORIZED, text="invalid write key\n")
        if request.path == "/v1/batch":
            for event in orjson.loads(body)["batch"]:
                self.on_stored(event)
        return web.Response(text="ok")


class Courier:
    """A workspace that does what it is asked, once per idempotency key; a PUT that is repeated changes nothing.

    `trouble` is the share of requests that go wrong: a 503 without an effect, or an effect without an answer.
    """

    def __init__(self, api_key: str, *, seed: int) -> None:
        self.trouble = 0.0
        self.on_effect: Callable[[Effect], None] = lambda _effect: None
        self._authorization = f"Bearer {api_key}"
        self._random = random.Random(seed)  # noqa: S311 - a repeatable scenario, not a secret
        self._tenants: dict[str, Json] = {}
        self._done: set[str | tuple[str, int]] = set()  # idempotency keys; path and hash of each PUT

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Take one request."""
        text = await request.read()
        if request.headers.get("Authorization") != self._authorization:
            return web.json_response({"message": "Unauthorized", "type": "authentication_error"}, status=401)
        is_troubled = self._random.random() < self.trouble
        if is_troubled and self._random.random() < 0.5:  # noqa: PLR2004 - one half
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
        is_put = request.method == "PUT"
        key = (request.path, hash(text)) if is_put else request.headers.get("Idempotency-Key", "")
        response = self._perform(request, orjson.loads(text) if text else None, is_known=key in self._done)
        if key:
            self._done.add(key)
        if is_troubled and request.transport is not None:
            request.transport.close()
        return response

    def _perform(self, request: web.BaseRequest, body: Json | None, *, is_known: bool) -> web.Response:
        asked = f"{request.method} {request.path}"
        matches = ((operation, pattern.fullmatch(asked)) for operation, pattern in _OPERATIONS.items())
        operation, match = next(((one, found) for one, found in matches if found), ("", None))
        if match is None:
            return web.json_response({"message": "Not Found"}, status=404)
        params = match.groupdict()
        if operation == f"GET {_TENANT}":
            tenant = self._tenants.get(params["tenant"])
            missing = {"message": "Tenant not found", "type": "invalid_request_error"}
            return web.json_response(tenant) if tenant else web.json_response(missing, status=404)
        if operation == f"PUT {_TENANT}" and body is not None:
            self._tenants[params["tenant"]] = {"id": params["tenant"]} | body
        if not is_known:
            user = params.get("user") or str((body or {}).get("recipient", ""))
            self.on_effect(Effect(user=user, operation=operation, params=params, body=body))
        return web.json_response({"status": "SUCCESS", "runId": "1-65f240a0-000000000000000000000001"})
