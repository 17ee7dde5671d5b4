"""The page's own files: style, script and icon. Read once, served from memory, checked by the browser at each use.

The names are a closed set, so that no path can lead elsewhere. Deliberately absent: anything from outside.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from aiohttp import web

_TYPES: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


def asset_routes() -> Sequence[web.RouteDef]:
    """Return a route for each file below `/static/`."""
    return tuple(_route(name, kind) for name, kind in _TYPES.items())


def _route(name: str, kind: str) -> web.RouteDef:
    body = (files("forwarder.operator") / "static" / name).read_bytes()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def serve(request: web.Request) -> web.Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if any(tag.strip('"') == one.value for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return web.get(f"/static/{name}", serve)
