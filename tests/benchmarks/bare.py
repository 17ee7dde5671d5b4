"""What the daemon is compared with: a bare aiohttp + uvloop handler, and one that calls rudder-sdk-python.

The bare one reads the body and answers 200: the ceiling of anything built on aiohttp. The other decodes the webhook
and hands it to the SDK's queue, as people write it first; it keeps nothing on disk. Start it with
PYTHON_DOTENV_DISABLED=1: the SDK's import reads a `.env` of its own finding.
"""

import argparse
import asyncio

import orjson
import uvloop
from aiohttp import web
from rudderstack.analytics import Client


async def bare(request: web.Request) -> web.Response:
    """Read the body and say yes."""
    await request.read()
    return web.Response(text="ok")


class SdkHandler:
    """Hand each webhook to the SDK's own queue, with its defaults but for room and patience."""

    def __init__(self, data_plane_url: str) -> None:
        self._client = Client("key", host=data_plane_url, max_queue_size=1_000_000, upload_interval=0.05)

    async def handle(self, request: web.Request) -> web.Response:
        """Decode, track, say yes."""
        data = orjson.loads(await request.read())["data"]
        self._client.track(data["recipientId"], "Message Delivered", properties=data, message_id=data["id"])
        return web.Response(text="ok")


async def serve(port: int, data_plane_url: str) -> None:
    """Serve until the process is ended."""
    app = web.Application(client_max_size=8_000_000)
    app.router.add_post("/webhooks/courier", SdkHandler(data_plane_url).handle if data_plane_url else bare)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description="Serve the handler that the daemon is compared with.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sdk", default="", help="call rudder-sdk-python towards this data plane")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.sdk))


if __name__ == "__main__":
    main()
