"""Let pages of any origin read the answers of `/v1/*`, as RudderStack's gateway does: browsers' SDKs post there.

Open on purpose: nothing here knows a cookie, and the key travels in a header that a page must have been given. A key
that a page uses is therefore public. All other paths stay shut to pages. Deliberately absent: who may come in, which
an origin never decides.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from forwarder.web.doors import Reply

# rudder-server gateway/handle_lifecycle.go: any origin, credentials, whatever headers are asked for, 15 minutes.
_PREFLIGHT_AGE_S = 900
_PATHS = "/v1/"
_ORIGIN = re.compile(r"[\x21-\x7e]{1,512}")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9_\-, ]{1,1024}")
# For a preflight that names none of a good form: what RudderStack's and Segment's SDKs send.
_USUAL_HEADERS = "Authorization, Content-Type, Content-Encoding, AnonymousId"

Header = Callable[[str], str | None]  # a look-up by lower-case name; None when the header is absent


def preflight(method: str, path: str, header: Header) -> Reply | None:
    """Answer a browser's question whether it may post; None when the request is something else."""
    if method != "OPTIONS" or not path.startswith(_PATHS) or header("access-control-request-method") is None:
        return None
    asked = header("access-control-request-headers") or ""
    names = asked if _HEADER_NAMES.fullmatch(asked) else _USUAL_HEADERS
    return Reply(
        204,
        b"",
        headers=(
            ("Access-Control-Allow-Methods", "POST"),
            ("Access-Control-Allow-Headers", names),
            ("Access-Control-Max-Age", str(_PREFLIGHT_AGE_S)),
        ),
    )


def readable(reply: Reply, path: str, header: Header) -> Reply:
    """Return the answer such that the page that asked may read it; unchanged on other paths, or without a page."""
    if not path.startswith(_PATHS):
        return reply
    origin = header("origin")
    if origin is None or not _ORIGIN.fullmatch(origin):
        return reply
    mine = (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", "Retry-After"),
        ("Vary", "Origin"),
    )
    # A challenge would make some browsers ask the page's visitors for a password.
    kept = ((name, value) for name, value in reply.headers if name != "WWW-Authenticate")
    return replace(reply, headers=(*kept, *mine))
