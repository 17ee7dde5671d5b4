"""Let pages of any origin post to the SDK endpoints and read their answers, as RudderStack's gateway does.

Open on purpose: nothing here knows a cookie, and the key travels with the request. A key that a page uses is therefore
public. All other paths stay shut to pages.
"""

import re
from collections.abc import Mapping

from forwarder.ingress.replies import Reply, with_headers

# rudder-server gateway/handle_lifecycle.go: any origin, credentials, whatever headers are asked for, 15 minutes.
_PREFLIGHT_AGE_S = 900
_ORIGIN = re.compile(rb"[\x21-\x7e]{1,512}")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_\-, ]{1,1024}")
# For a preflight that names none of a good form: what RudderStack's and Segment's SDKs send.
_USUAL_HEADERS = b"Authorization, Content-Type, Content-Encoding, AnonymousId, SentAt"

Headers = Mapping[bytes, bytes]  # by lower-case name


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
