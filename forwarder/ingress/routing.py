"""Who answers a request, by its target: an endpoint, a health check, an SDK's document, or nobody.

An endpoint costs one look-up; everything else is asked only when that finds nothing.
"""

from urllib.parse import unquote_to_bytes

from forwarder.ingress.admission import Admission, Headers
from forwarder.ingress.cors import origin_of, preflight, readable
from forwarder.ingress.documents import Documents
from forwarder.ingress.endpoints import BY_TARGET, ENDPOINTS, Endpoint, ReplyFormat
from forwarder.ingress.health import Health
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import Rejected, Reply
from forwarder.telemetry.reporter import Reporter

UNKNOWN_ENDPOINT = "other"  # in metrics: whatever path somebody invents
HEALTH = "health"
ENDPOINT_NAMES = (*dict.fromkeys(endpoint.name for endpoint in ENDPOINTS.values()), HEALTH, UNKNOWN_ENDPOINT)

_PAGES_PATHS = (b"/v1/", b"/beacon/", b"/pixel/", b"/sourceConfig")


class Routing:
    """Judge the heads of requests."""

    def __init__(self, receiver: Receiver, health: Health, documents: Documents, reporter: Reporter) -> None:
        self._receiver = receiver
        self._health = health
        self._documents = documents
        self._reporter = reporter

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
        self._reporter.request_rejected(UNKNOWN_ENDPOINT, "path_unknown")
        return Rejected(404, "path_unknown", "there is no such path").reply(ReplyFormat.JSON)


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
