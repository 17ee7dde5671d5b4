"""How much code one webhook crosses, from socket to settlement: files and functions of the package, and Python calls.

The daemon runs in this process under a profiler hook, with a data plane beside it. What is called at least once for
each of the webhooks, sent one after the other, is on their way; what runs now and then (housekeeping) is not.
"""

import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import forwarder
from benchmarks.load import EVENTS_KEY, SECRET, webhooks
from benchmarks.servers import sink
from forwarder import app
from forwarder.settings import Settings
from stand_ins.listener import free_port

_PACKAGE = str(Path(forwarder.__file__).parent)
_WARM, _COUNTED = 5, 20


class Calls:
    """Calls of the package's own functions, on every thread, while it is on."""

    def __init__(self) -> None:
        self.of: Counter[CodeType] = Counter()
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Take what the interpreter reports."""
        if self.is_on and event == "call" and frame.f_code.co_filename.startswith(_PACKAGE):
            self.of[frame.f_code] += 1


def size() -> tuple[int, int]:
    """Return files and lines of the package."""
    files = list(Path(_PACKAGE).rglob("*.py"))
    return len(files), sum(len(file.read_bytes().splitlines()) for file in files)


async def count(calls: Calls) -> None:
    """Run the daemon, have it deliver webhooks one after the other, and count."""
    port, stop = free_port(), asyncio.Event()
    with tempfile.TemporaryDirectory() as folder, sink() as plane:
        settings = Settings.model_validate(
            {
                "RUDDERSTACK_WRITE_KEY": "benchmark",
                "RUDDERSTACK_DATA_PLANE_URL": plane.url,
                "COURIER_WEBHOOK_SECRET": SECRET,
                "FORWARDER_EVENTS_KEY": EVENTS_KEY,
                "FORWARDER_EVENTS": "all",
                "FORWARDER_LISTEN": f"127.0.0.1:{port}",
                "FORWARDER_OPERATOR_LISTEN": f"127.0.0.1:{free_port()}",
                "FORWARDER_DATA_DIR": folder,
                "FORWARDER_LOG_LEVEL": "error",
            }
        )

        def send() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            for number, request in enumerate(webhooks(range(_WARM + _COUNTED))):
                calls.is_on = number >= _WARM
                head, _, body = request.partition(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
                connection.request("POST", "/webhooks/courier", body, headers)
                connection.getresponse().read()
                plane.wait_for(number + 1, of="requests")
            time.sleep(0.5)  # the last one's settlement
            calls.is_on = False

        async with asyncio.TaskGroup() as group:
            running = group.create_task(app.run_until(settings, stop))
            await _until_up(port, running)
            await asyncio.to_thread(send)
            stop.set()


async def _until_up(port: int, running: "asyncio.Task[None]") -> None:
    while not running.done():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


def main() -> None:
    """Count and print."""
    package = size()
    calls = Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        asyncio.run(count(calls))
    finally:
        sys.setprofile(None)
    on_the_way = {code: times for code, times in calls.of.items() if times >= _COUNTED}
    figures = {
        "package_files": package[0],
        "package_lines": package[1],
        "files": len({code.co_filename for code in on_the_way}),
        "functions": len(on_the_way),
        "calls": round(sum(on_the_way.values()) / _COUNTED),
    }
    if "--list" in sys.argv:
        for code in sorted(on_the_way, key=lambda one: (one.co_filename, one.co_firstlineno)):
            sys.stderr.write(f"{code.co_filename[len(_PACKAGE) + 1 :]}:{code.co_qualname} {on_the_way[code]}\n")
    print(json.dumps(figures))  # noqa: T201 - this is its result


if __name__ == "__main__":
    main()
