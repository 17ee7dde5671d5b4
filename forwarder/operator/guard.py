"""Who may use the operator's listener: origin first, then the proxy's word, the host's name, the login, the token.

Pure but for the throttle's memory; the time is given. The listener makes an answer of a `Denial`.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from forwarder.operator.people import ANYBODY, NOBODY, People, Person, cleaned
from forwarder.settings.operators import UserHeader

FAILURES_MAX: Final = 10
FAILURES_WINDOW_S: Final = 60.0
_ADDRESSES_MAX: Final = 4_096
_IPV6_SENDER_BYTES: Final = 8  # a /64
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a request goes no further."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    rejected: str = ""  # why, where the log shall tell of it


class Throttle:
    """Count failed tokens per sender's address; too many within a minute are turned away unread.

    An IPv6 sender is his /64: he has all the addresses in it. Memory is bounded: past the limit of addresses the
    oldest count is forgotten.
    """

    def __init__(self, *, failures_max: int = FAILURES_MAX) -> None:
        self._failures_max = failures_max
        self._failures: dict[str, tuple[int, float]] = {}

    def wait_s(self, address: str, *, now_s: float) -> float:
        """Return how long the address must stay away; 0.0 when it may try."""
        count, until_s = self._failures.get(_sender(address), (0, 0.0))
        return max(0.0, until_s - now_s) if count >= self._failures_max else 0.0

    def failed(self, address: str, *, now_s: float) -> None:
        """Count a wrong token."""
        sender = _sender(address)
        count, until_s = self._failures.pop(sender, (0, 0.0))
        if len(self._failures) >= _ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[sender] = (count + 1, until_s) if until_s > now_s else (1, now_s + FAILURES_WINDOW_S)


class OperatorGuard:
    """Judge every request before anything else looks at it: say who asks, or why it goes no further.

    `public_paths` need nobody; one with a trailing slash means all below it.
    """

    def __init__(
        self,
        *,
        people: People,
        own_hosts: frozenset[str],
        user_header: UserHeader | None = None,
        public_paths: tuple[str, ...] = (),
    ) -> None:
        self._people = people
        self._own_hosts = own_hosts
        self._user_header = user_header
        self._public_paths = public_paths
        self.throttle = Throttle()

    async def judge(self, request: web.Request, *, now_s: float) -> Denial | Person:
        """Return who asks, or why the request is denied."""
        headers = request.headers
        if request.method not in _SAFE_METHODS and not is_own_origin(headers):
            return Denial(status=403, message="this change comes from another origin")
        if is_embedded_elsewhere(headers):
            return Denial(status=403, message="another site asks for this in the background; open it as a page")
        if not self._people.have_tokens and self._user_header is None:
            return ANYBODY if self._is_own_host(headers.get("Host", "")) else _FOREIGN_HOST
        await self._people.look(request.cookies)
        person = self._named_by_proxy(request) or self._people.logged_in(request.cookies)
        if person is None and self._is_public(request.path):
            return NOBODY
        return person or self._judge_bearer(headers, request.remote or "", now_s)

    def _named_by_proxy(self, request: web.Request) -> Denial | Person | None:
        """Return whom the proxy names; None without its header. Whoever else sends it is refused, whatever he holds."""
        header = self._user_header
        if header is None or not (given := request.headers.getall(header.name, ())):
            return None
        if not header.trusts(request.remote or ""):
            return Denial(
                status=403,
                message=f"{header.name} is believed from the proxy of FORWARDER_OPERATOR_USER_HEADER alone",
                rejected="untrusted_user_header",
            )
        name = cleaned(given[0])
        if len(given) > 1 or not name:
            return Denial(
                status=403,
                message=f"the proxy must send {header.name} once, with a name in it, and drop what clients send",
                rejected="untrusted_user_header",
            )
        return Person(name=name, role=header.role, way="proxy")

    def _judge_bearer(self, headers: Mapping[str, str], remote: str, now_s: float) -> Denial | Person:
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.casefold() != "bearer" or not given.strip():
            return _NO_TOKEN
        if wait_s := self.throttle.wait_s(remote, now_s=now_s):
            return Denial(
                status=429,
                message="too many wrong tokens from this address",
                headers={"Retry-After": str(int(wait_s) + 1)},
            )
        if (person := self._people.by_token(given.strip())) is not None:
            return person
        self.throttle.failed(remote, now_s=now_s)
        return _NO_TOKEN

    def _is_public(self, path: str) -> bool:
        return any(path == one or (one.endswith("/") and path.startswith(one)) for one in self._public_paths)

    def _is_own_host(self, host: str) -> bool:
        name = host_name(host)
        return name in self._own_hosts or name == "localhost" or _is_loopback(name)


def is_own_origin(headers: Mapping[str, str]) -> bool:
    """Tell whether a change was made by our own page, or by a program (which sends neither header).

    The origin is compared with the host that the browser asked, without the scheme: behind a proxy that
    ends TLS we see http where the browser saw https.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in _OWN_SITES:
        return False
    origin = headers.get("Origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        asked = urlsplit(f"{parts.scheme}://{headers.get('Host', '')}")
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return bool(parts.hostname) and (parts.hostname, parts.port or default) == (
            asked.hostname,
            asked.port or default,
        )
    except ValueError:
        return False


def is_embedded_elsewhere(headers: Mapping[str, str]) -> bool:
    """Tell whether a browser fetches this for another site's page, rather than following a link.

    That page could not read the answer, but it could start searches.
    """
    return headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES and headers.get("Sec-Fetch-Mode") != "navigate"


def host_name(host: str) -> str:
    """Return the name of a `Host` header without its port and brackets, in lower case; "" when it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _sender(address: str) -> str:
    """Return whom an address belongs to: itself, or the network that one IPv6 sender has to himself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.packed[:_IPV6_SENDER_BYTES].hex()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_NO_TOKEN: Final = Denial(
    status=401,
    message="send an operator's token as Authorization: Bearer",
    headers={"WWW-Authenticate": 'Bearer realm="forwarder"'},
)
_FOREIGN_HOST: Final = Denial(
    status=403, message="this host name is not ours; use localhost, or set FORWARDER_OPERATOR_TOKEN"
)
