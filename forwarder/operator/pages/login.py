"""Log in with the operator's token and out again; only where a token is set.

A wrong token counts against the sender's address as one in a header does. Origins are judged before anything gets
here. Deliberately absent: sessions.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from forwarder.operator.desk import OperatorDesk
from forwarder.operator.guard import Denial, OperatorGuard
from forwarder.operator.pages.acts import fields_of, operator_name
from forwarder.operator.pages.render import Renderer, see_other
from forwarder.operator.sessions import COOKIE, LIFETIME_S, Sessions

PATH: Final = "/login"
PUBLIC_PATHS: Final = (PATH, "/static/")
_FORM_BYTES_MAX: Final = 16_384  # whoever is not logged in gets no more read
_NEXT_CHARACTERS_MAX: Final = 2_000
_FOR_PROGRAMS: Final = ("/api/", "/metrics", "/static/")
_UNAUTHORIZED: Final = 401


def login_routes(
    desk: OperatorDesk, render: Renderer, *, guard: OperatorGuard, sessions: Sessions
) -> Sequence[web.RouteDef]:
    """Return the routes of the login."""
    page = _Login(desk, render, guard, sessions)
    return (web.get(PATH, page.show), web.post(PATH, page.log_in), web.post("/logout", page.log_out))


def to_login(request: web.Request, denial: Denial) -> web.StreamResponse | None:
    """Return the way to the login for a person's browser; None for programs, which get the denial itself."""
    is_person = "text/html" in request.headers.get("Accept", "") and "Authorization" not in request.headers
    if denial.status != _UNAUTHORIZED or not is_person or request.path.startswith(_FOR_PROGRAMS):
        return None
    asked = request.path_qs if request.method in ("GET", "HEAD") else ""
    return web.Response(status=303, headers={"Location": _login_path(asked)})


def own_path(given: str) -> str:
    """Return where to go after the login: a path of this site, "/" for anything else.

    Browsers take a backslash for a slash and skip control characters, so that neither may be in it.
    """
    if not given.startswith("/") or len(given) > _NEXT_CHARACTERS_MAX or "\\" in given or not given.isprintable():
        return "/"
    try:
        parts = urlsplit(given)
    except ValueError:
        return "/"
    is_own = not parts.scheme and not parts.netloc and not given.startswith("//")
    return given if is_own and parts.path not in (PATH, "/logout") else "/"


class _Login:
    def __init__(self, desk: OperatorDesk, render: Renderer, guard: OperatorGuard, sessions: Sessions) -> None:
        self._desk = desk
        self._render = render
        self._guard = guard
        self._sessions = sessions

    async def show(self, request: web.Request) -> web.Response:
        target = own_path(request.query.get("next", "/"))
        if not self._guard.has_token or self._sessions.is_logged_in(request.cookies):
            raise see_other(target)
        return self._form(request, target)

    async def log_in(self, request: web.Request) -> web.Response:
        if not self._guard.has_token:
            raise see_other("/")
        remote, now_s = request.remote or "", self._desk.clock.monotonic_s()
        if wait_s := self._guard.throttle.wait_s(remote, now_s=now_s):
            self._desk.reporter.request_rejected("operator", "login_throttled")
            seconds = int(wait_s) + 1
            return self._refused(
                request,
                429,
                f"Too many wrong tokens from this address: wait {seconds} s.",
                {"Retry-After": str(seconds)},
            )
        if request.content_length is None or request.content_length > _FORM_BYTES_MAX:
            return self._refused(request, 413, "This form is larger than a login.", {})
        fields = await fields_of(request)
        if not self._guard.token_matches(fields.get("token", "").strip()):
            self._guard.throttle.failed(remote, now_s=now_s)
            self._desk.reporter.request_rejected("operator", "login_wrong")
            return self._refused(request, 401, "That is not the token.", {}, target=own_path(fields.get("next", "/")))
        await self._desk.audit(operator_name(request), "login", "logged in with the token")
        response = web.Response(status=303, headers={"Location": own_path(fields.get("next", "/"))})
        response.set_cookie(
            COOKIE,
            self._sessions.open(),
            max_age=LIFETIME_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=is_behind_tls(request.headers),
        )
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        if self._sessions.is_logged_in(request.cookies):
            self._sessions.close(request.cookies)
            await self._desk.audit(operator_name(request), "logout", "logged out")
        response = web.Response(status=303, headers={"Location": PATH})
        secure = is_behind_tls(request.headers)
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=secure)
        return response

    def _refused(
        self, request: web.Request, status: int, problem: str, headers: Mapping[str, str], *, target: str = "/"
    ) -> web.Response:
        response = self._form(request, target, problem=problem, status=status)
        response.headers.update(headers)
        return response

    def _form(self, request: web.Request, target: str, *, problem: str = "", status: int = 200) -> web.Response:
        return self._render.page(
            request,
            "login.html",
            status=status,
            target=target,
            problem=problem,
            navigation=(),
            can_log_out=False,
        )


def is_behind_tls(headers: Mapping[str, str]) -> bool:
    """Tell whether the browser came by https: a proxy that ended TLS says so, or the browser's own origin does."""
    forwarded = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().casefold()
    return forwarded == "https" or headers.get("Origin", "").startswith("https://")


def _login_path(asked: str) -> str:
    target = own_path(asked)
    return PATH if target == "/" else f"{PATH}?{urlencode({'next': target})}"
