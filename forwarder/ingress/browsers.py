"""What browsers need beside the endpoints: leave for pages of any origin, and the settings that SDKs fetch first.

Any page may post to the SDK endpoints and read their answers, as RudderStack's gateway has it. Open on purpose: nothing
here knows a cookie, and the key travels with the request. A key that a page uses is therefore public. All other paths
stay shut to pages.

The settings are the smallest with which the SDKs start and send here. Segment's ask `/v1/projects/<key>/settings` of
their CDN's host, RudderStack's `/sourceConfig` of their control plane's; both can be pointed here. Segment's also
report how they fare to `/v1/m`, without a key: that is nobody's event and is not kept.
"""

import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

import msgspec

from forwarder.ingress.admission import Admission, Headers, write_key_of
from forwarder.ingress.endpoints import DOCUMENTS, ENDPOINTS
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import SUCCESS, Reply, with_headers

# rudder-server gateway/handle_lifecycle.go: any origin, credentials, whatever headers are asked for, 15 minutes.
_PREFLIGHT_AGE_S = 900
_ORIGIN = re.compile(rb"[\x21-\x7e]{1,512}")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_\-, ]{1,1024}")
# For a preflight that names none of a good form: what RudderStack's and Segment's SDKs send.
_USUAL_HEADERS = b"Authorization, Content-Type, Content-Encoding, AnonymousId, SentAt"

_PROJECT = re.compile(rb"/v1/projects/([^/]{1,512})/settings/?")
_SOURCE_CONFIG = (b"/sourceConfig", b"/sourceConfig/")
_SDK_METRICS = (b"/m", b"/v1/m")
_METRICS = ENDPOINTS["/v1/b"]  # judged as that one is; the SDK sends them without any key
_HOST = re.compile(rb"[A-Za-z0-9.:_\[\]-]{1,255}")
_LOOPBACK = (b"localhost", b"127.", b"[::1]")
_EPOCH = "1970-01-01T00:00:00.000Z"

_encode = msgspec.json.Encoder().encode


class Documents:
    """Answer what SDKs ask before they send. `public_url` is how the outside reaches the listener; "" if not known."""

    def __init__(self, receiver: Receiver, *, public_url: str = "") -> None:
        self._receiver = receiver
        self._public_url = public_url

    def reply(self, method: bytes, path: bytes, headers: Headers, query: bytes) -> Reply | None:
        """Answer a request to one of these paths; None when it is for somebody else."""
        if path in _SDK_METRICS:
            judged = self._receiver.admit(_METRICS, method, headers, query)
            return SUCCESS if isinstance(judged, Admission) else judged
        project = _PROJECT.fullmatch(path)
        if project is None and path not in _SOURCE_CONFIG:
            return None
        if project is not None:
            query = b"writeKey=" + quote(unquote_to_bytes(project[1])).encode()
        admission = self._receiver.admit(DOCUMENTS, method, headers, query)
        if not isinstance(admission, Admission):
            return admission
        if project is None:
            return _document(_source_config(write_key_of(query).decode("utf-8", "replace")))
        key = unquote_to_bytes(project[1]).decode("utf-8", "replace")
        return _document(self._segment_settings(key, headers))

    def _segment_settings(self, key: str, headers: Headers) -> dict[str, object]:
        protocol, api_host = self._here(headers)
        segment = {"apiKey": key, "apiHost": api_host, "protocol": protocol, "addBundledMetadata": True}
        everything = {"__default": {"enabled": True, "integrations": {}}}
        return {
            "integrations": {"Segment.io": segment},
            "plan": {"track": everything, "identify": everything, "group": everything},
            "edgeFunction": {},
            "middlewareSettings": {},
            "metrics": {"sampleRate": 0},
            "remotePlugins": [],
        }

    def _here(self, headers: Headers) -> tuple[str, str]:
        """Return protocol, and host with path, under which the SDK reaches its endpoints."""
        if self._public_url:
            parts = urlsplit(self._public_url)
            return parts.scheme, f"{parts.netloc}{parts.path.rstrip('/')}/v1"
        host = headers.get(b"host", b"").strip()
        host = host if _HOST.fullmatch(host) else b"localhost"
        forwarded = headers.get(b"x-forwarded-proto", b"").partition(b",")[0].strip().lower()
        # A page that came by https cannot post to http, but on its own machine.
        is_page_secure = headers.get(b"origin", b"").startswith(b"https:") and not host.startswith(_LOOPBACK)
        protocol = "https" if forwarded == b"https" or (not forwarded and is_page_secure) else "http"
        return protocol, host.decode("ascii") + "/v1"


def _document(content: dict[str, object]) -> Reply:
    return Reply(200, _encode(content), headers=(("Cache-Control", "no-store"),))


def _source_config(key: str) -> dict[str, object]:
    off = {"errors": {"enabled": False}, "metrics": {"enabled": False}}
    return {
        "source": {
            "id": "forwarder",
            "name": "forwarder",
            "writeKey": key,
            "enabled": True,
            "workspaceId": "forwarder",
            "updatedAt": _EPOCH,
            "config": {"statsCollection": off},
            "destinations": [],
        },
        "updatedAt": _EPOCH,
    }


def preflight(method: bytes, headers: Headers, *, methods: str) -> Reply | None:
    """Answer a browser's question whether it may use `methods`; None when the request is something else."""
    if method != b"OPTIONS" or b"access-control-request-method" not in headers:
        return None
    asked = headers.get(b"access-control-request-headers", b"").strip()
    names = asked if _HEADER_NAMES.fullmatch(asked) else _USUAL_HEADERS
    return Reply(
        204,
        b"",
        headers=(
            ("Access-Control-Allow-Methods", methods),
            ("Access-Control-Allow-Headers", names.decode("ascii")),
            ("Access-Control-Max-Age", str(_PREFLIGHT_AGE_S)),
        ),
    )


def origin_of(headers: Headers) -> str:
    """Return the page that asks; "" when there is none, or no origin of good form."""
    origin = headers.get(b"origin", b"").strip()
    return origin.decode("ascii") if _ORIGIN.fullmatch(origin) else ""


def readable(reply: Reply, origin: str) -> Reply:
    """Return the answer such that the page that asked may read it."""
    return with_headers(
        reply,
        (
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Expose-Headers", "Retry-After"),
            ("Vary", "Origin"),
        ),
    )
