"""Log in with a token, by name, and out again; only where a token is set.

A wrong token counts against the sender's address as one in a header does. Origins are judged before anything gets
here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from forwarder.operator.acts import Acts
from forwarder.operator.guard import Throttle
from forwarder.operator.logins import LIFETIME_S
from forwarder.operator.operation import FORM, Operation, fields_of
from forwarder.operator.pages.render import Renderer, see_other
from forwarder.operator.people import COOKIE, NOBODY, People, person_of, set_person, who

PATH: Final = "/login"
PUBLIC_PATHS: Final = (PATH, "/static/")
_FORM_BYTES_MAX: Final = 16_384  # whoever is not logged in gets no more read
_NEXT_CHARACTERS_MAX: Final = 2_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The login, and the way to it."""

    acts: Acts
    render: Renderer
    throttle: Throttle
    people: People

    def operations(self) -> Sequence[Operation]:
        """Return the page and its two acts."""
        refused = (
            "Fields: token, name (counts with the shared token), next (a path). "
            "401: no token; 429: too many wrong ones, see Retry-After."
        )
        return (
            Operation("GET", PATH, "Log in", self.show),
            Operation(
                "POST", PATH, "Log in: opens a session, sets its cookie", self.log_in, FORM, refused, is_act=False
            ),
            Operation("POST", "/logout", "Log out: ends the session", self.log_out, FORM, is_act=False),
        )

    async def show(self, request: web.Request) -> web.Response:
        """Show the form."""
        target = own_path(request.query.get("next", "/"))
        if not self.people.have_tokens or person_of(request).way:
            raise see_other(target)
        return await self._form(request, target)

    async def log_in(self, request: web.Request) -> web.Response:
        """Open a session; a form that is larger than a login is not read."""
        if not self.people.have_tokens:
            raise see_other("/")
        remote, now_s = request.remote or "", self.acts.parts.clock.monotonic_s()
        if wait_s := self.throttle.wait_s(remote, now_s=now_s):
            self.acts.parts.reporter.request_rejected("operator", "login_throttled")
            seconds = int(wait_s) + 1
            return await self._refused(
                request,
                429,
                f"Too many wrong tokens from this address: wait {seconds} s.",
                {"Retry-After": str(seconds)},
            )
        if request.content_length is None or request.content_length > _FORM_BYTES_MAX:
            return await self._refused(request, 413, "This form is larger than a login.", {})
        fields = await fields_of(request)
        token = fields.get("token", "").strip()
        if self.people.by_token(token) is None:
            self.throttle.failed(remote, now_s=now_s)
            self.acts.parts.reporter.request_rejected("operator", "login_wrong")
            target = own_path(fields.get("next", "/"))
            return await self._refused(request, 401, "That is no token of this daemon.", {}, target=target)
        session = await self.people.log_in(token, fields.get("name", ""))
        person = self.people.logged_in({COOKIE: session}) or NOBODY
        set_person(request, person)
        await self.acts.audit(who(request), "login", f"logged in, role {person.role.value}")
        response = web.Response(status=303, headers={"Location": own_path(fields.get("next", "/"))})
        response.set_cookie(
            COOKIE,
            session,
            max_age=LIFETIME_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=is_behind_tls(request.headers),
        )
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        """End the session."""
        if person_of(request).is_logged_in:
            await self.people.log_out(request.cookies)
            await self.acts.audit(who(request), "logout", "logged out")
        response = web.Response(status=303, headers={"Location": PATH})
        secure = is_behind_tls(request.headers)
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=secure)
        return response

    async def _refused(
        self, request: web.Request, status: int, problem: str, headers: Mapping[str, str], *, target: str = "/"
    ) -> web.Response:
        response = await self._form(request, target, problem=problem, status=status)
        response.headers.update(headers)
        return response

    async def _form(self, request: web.Request, target: str, *, problem: str = "", status: int = 200) -> web.Response:
        return await self.render.page(
            request,
            "login.html",
            status=status,
            target=target,
            problem=problem,
            person=NOBODY,
            asks_name=self.people.have_shared_token,
            needs_name=not self.people.have_named_tokens,
        )


def is_behind_tls(headers: Mapping[str, str]) -> bool:
    """Tell whether the browser came by https: a proxy that ended TLS says so, or the browser's own origin does."""
    forwarded = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().casefold()
    return forwarded == "https" or headers.get("Origin", "").startswith("https://")


def to_login(request: web.Request) -> web.StreamResponse | None:
    """Return the way to the login for a person's browser; None for programs, which get the denial itself."""
    if "text/html" not in request.headers.get("Accept", "") or "Authorization" in request.headers:
        return None
    target = own_path(request.path_qs if request.method in ("GET", "HEAD") else "")
    where = PATH if target == "/" else f"{PATH}?{urlencode({'next': target})}"
    return web.Response(status=303, headers={"Location": where})
