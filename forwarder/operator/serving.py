"""The operator's listener: guards every request, answers every error, and serves what it is given."""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web, web_response

from forwarder.errors import ForwarderError, NoSuchEvent, SettingsInvalid
from forwarder.operator.guard import Denial, OperatorGuard
from forwarder.operator.operation import QueryInvalid
from forwarder.operator.parts import Parts
from forwarder.operator.people import set_person

_BODY_BYTES_MAX: Final = 8_388_608
_SHUTDOWN_S: Final = 1.0  # what is open then (a page that follows) is cut: nothing is lost by it
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: under it browsers send `Origin: null` with our own forms, which the guard would turn away.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Told = Callable[[web.Request, int, str], Awaitable[web.StreamResponse | None]]


async def _in_json(_: web.Request, __: int, ___: str) -> None:
    """Leave every error to be told in JSON."""


def operator_app(
    routes: Iterable[web.AbstractRouteDef], *, guard: OperatorGuard, parts: Parts, told: Told = _in_json
) -> web.Application:
    """Return an application in which every route is guarded, and every answer carries the strict headers.

    `told` may tell an error or a denial in its own way; None leaves it to be told in JSON.
    """

    async def error(request: web.Request, status: int, message: str, **headers: str) -> web.StreamResponse:
        answer = await told(request, status, message)
        if answer is None:
            answer = web.json_response({"error": message}, status=status)
        answer.headers.update(headers)
        return answer

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        person = await guard.judge(request, now_s=parts.clock.monotonic_s())
        if isinstance(person, Denial):
            if person.rejected:
                parts.reporter.request_rejected("operator", person.rejected)
            return await error(request, person.status, person.message, **person.headers)
        set_person(request, person)
        try:
            return await handler(request)
        except web.HTTPRedirection:
            raise
        except Exception as problem:  # noqa: BLE001  a listener's last resort: answered, told without its text, and on
            status, message, headers = _problem(problem)
            if status == web.HTTPInternalServerError.status_code:
                parts.reporter.operator_failed(problem)
            return await error(request, status, message, **headers)

    app = web.Application(middlewares=[guarded], client_max_size=_BODY_BYTES_MAX)
    app.add_routes(routes)
    app.on_response_prepare.append(_add_headers)
    return app


def _problem(problem: Exception) -> tuple[int, str, dict[str, str]]:
    """Return what to answer; the text of a foreign error may quote a payload and stays out."""
    match problem:
        case QueryInvalid():
            return 400, str(problem), {}
        case NoSuchEvent():
            return 404, str(problem), {}
        case ForwarderError():
            return 503, str(problem), {"Retry-After": "1"}
        case web.HTTPException():
            kept = {name: value for name, value in problem.headers.items() if name in ("Allow", "Retry-After")}
            return problem.status, problem.reason, kept
        case _:
            return 500, "this request failed inside the daemon; its log names the place", {}


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class OperatorListener:
    """`ports.Worker`, and startable: listen until drained. `address` is known once `started` is set."""

    name = "operator"

    def __init__(
        self, app: web.Application, *, host: str, port: int, on_start: Callable[[str], None] = lambda _: None
    ) -> None:
        """Keep what is served; `on_start` is told the address of the page, once it is there."""
        self._app = app
        self._on_start = on_start
        self._host = host
        self._port = port
        self._drained = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.started = asyncio.Event()
        self.address: tuple[str, int] = (host, port)

    async def start(self) -> None:
        """Listen. Raises `SettingsInvalid` when the address cannot be listened on. Idempotent."""
        if self._runner is not None:
            return
        # Its own tells the versions of aiohttp and Python, also where no application is asked: a head that is no HTTP.
        web_response.SERVER_SOFTWARE = "forwarder"  # type: ignore[attr-defined]  # there is no other way to it
        runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            is_taken = error.errno == errno.EADDRINUSE
            why = "something listens there already" if is_taken else error.strerror or type(error).__name__
            raise SettingsInvalid(
                f"FORWARDER_OPERATOR_LISTEN: cannot listen on {self._host}:{self._port}, because {why}. "
                "Set an address of this machine and a free port above 1023."
            ) from None
        self._runner = runner
        host, port, *_ = runner.addresses[0]
        self.address = (host, port)
        self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
        self.started.set()

    async def run(self) -> None:
        """Serve until drained or cancelled; `start` first if that was not done."""
        try:
            await self.start()
            await self._drained.wait()
        finally:
            if self._runner is not None:
                await self._runner.cleanup()

    async def drain(self) -> None:
        """Make `run` close its connections and return."""
        self._drained.set()
