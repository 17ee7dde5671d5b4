"""Who answers a request, by its target: an endpoint, a health check, an SDK's document, or nobody.

An endpoint costs one look-up; everything else is asked only when that finds nothing. Health is for a supervisor and a
load balancer. Alive: the daemon's loops turn. Ready: the spool is open and the listener is up. A destination's state, a
hold, a pause or a spool at its cap never makes the daemon unready: that would shut the other route's endpoints too.
"""

from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

import msgspec

from forwarder.ingress.admission import Admission, Headers
from forwarder.ingress.browsers import Documents, origin_of, preflight, readable
from forwarder.ingress.endpoints import BY_TARGET, ENDPOINTS, Endpoint, ReplyFormat
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import Rejected, Reply
from forwarder.ports import Clock, Probeable

UNKNOWN_ENDPOINT = "other"  # in metrics: whatever path somebody invents
HEALTH = "health"
ALIVE_WITHIN_S = 60.0
ENDPOINT_NAMES = (*dict.fromkeys(endpoint.name for endpoint in ENDPOINTS.values()), HEALTH, UNKNOWN_ENDPOINT)

_PAGES_PATHS = (b"/v1/", b"/beacon/", b"/pixel/", b"/sourceConfig")
_encode = msgspec.json.Encoder().encode


class Health:
    """Answer `/livez` and `/readyz`."""

    def __init__(
        self,
        *,
        clock: Clock,
        probes: Sequence[Probeable] = (),
        obstacles: Callable[[], Sequence[str]] = tuple,
        alive_within_s: float = ALIVE_WITHIN_S,
    ) -> None:
        """Keep whom to ask. `obstacles` returns why the daemon is not ready, its stopping apart; empty when it is."""
        self._clock = clock
        self._probes = tuple(probes)
        self._obstacles = obstacles
        self._alive_within_s = alive_within_s
        self._paths = {
            path + slash: ask
            for path, ask in ((b"/livez", self.livez), (b"/readyz", self.readyz))
            for slash in (b"", b"/")
        }
        self.is_listening = False  # the listener says so itself
        self.is_draining = False

    def reply(self, method: bytes, path: bytes) -> Reply | None:
        """Answer a request to one of the two paths; None when it is for somebody else."""
        ask = self._paths.get(path)
        if ask is None:
            return None
        if method not in (b"GET", b"HEAD"):
            return Reply(405, _encode({"error": "this path takes GET only"}), headers=(("Allow", "GET, HEAD"),))
        return ask()

    def livez(self) -> Reply:
        """Return 200 while every loop turned lately, else 503 that names those that did not."""
        now_s = self._clock.monotonic_s()
        stuck = [p.name for p in self._probes if not p.is_alive(now_s=now_s, within_s=self._alive_within_s)]
        return _health("alive", [f"{name} made no progress for {self._alive_within_s:g} s" for name in stuck])

    def readyz(self) -> Reply:
        """Return 200 while events can be taken, else 503 that says why not."""
        reasons = list(self._obstacles())
        if self.is_draining:
            reasons.append("the daemon is stopping")
        elif not self.is_listening:
            reasons.append("the listener is not up")
        return _health("ready", reasons)


class Routing:
    """Judge the heads of requests."""

    def __init__(self, receiver: Receiver, health: Health, documents: Documents) -> None:
        self._receiver = receiver
        self._health = health
        self._documents = documents

    def judge(self, method: bytes, target: bytes, headers: Headers) -> Admission | Reply:
        """Return the admission of a request whose body shall be read, or its answer."""
        endpoint, path, query = BY_TARGET.get(target), target, b""
        if endpoint is None:
            path, query = split(target)
            endpoint = BY_TARGET.get(path)
        elif not endpoint.is_cross_origin:  # the hot path
            return self._receiver.admit(endpoint, method, headers, query)
        is_for_pages = endpoint.is_cross_origin if endpoint is not None else path.startswith(_PAGES_PATHS)
        if not is_for_pages:
            return self._judge(endpoint, method, path, headers, query)
        asked = preflight(method, headers, methods=_methods(endpoint))
        judged = asked or self._judge(endpoint, method, path, headers, query)
        if origin := origin_of(headers):
            if isinstance(judged, Reply):
                return readable(judged, origin)
            judged.origin = origin
        return judged

    def _judge(
        self, endpoint: Endpoint | None, method: bytes, path: bytes, headers: Headers, query: bytes
    ) -> Admission | Reply:
        if endpoint is not None:
            return self._receiver.admit(endpoint, method, headers, query)
        if (reply := self._health.reply(method, path)) is not None:
            return reply
        if (reply := self._documents.reply(method, path, headers, query)) is not None:
            return reply
        return Rejected(404, "path_unknown", "there is no such path").reply(ReplyFormat.JSON, UNKNOWN_ENDPOINT)


def endpoint_name(target: bytes) -> str:
    """Return what metrics call the endpoint of a target: one of `ENDPOINT_NAMES`."""
    path = split(target)[0]
    endpoint = BY_TARGET.get(path)
    if endpoint is not None:
        return endpoint.name
    return HEALTH if path.rstrip(b"/") in (b"/livez", b"/readyz") else UNKNOWN_ENDPOINT


def split(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target, be it a path or an absolute address (RFC 9112, 3.2.2)."""
    target = target.partition(b"#")[0]
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return target, b""
        authority = rest.partition(b"?")[0].partition(b"/")[0]
        target = rest[len(authority) :]
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path) if b"%" in path else path, query


def _methods(endpoint: Endpoint | None) -> str:
    return "GET, POST" if endpoint is None else ", ".join(sorted(method.decode() for method in endpoint.methods))


def _health(good: str, reasons: Sequence[str]) -> Reply:
    if not reasons:
        return Reply(200, _encode({"status": good}))
    return Reply(503, _encode({"status": f"not {good}", "reason": "; ".join(reasons)}), headers=(("Retry-After", "5"),))
