"""Posts events to the daemon as the vendors do: a time-out, retries on a schedule, giving up for good on a 4xx.

It owns requests and waits; what it posts is made elsewhere, and what was acknowledged is written into
a ledger.
"""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import aiohttp

from forwarder.demo.call_stream import Call
from forwarder.demo.facts import Ledger
from forwarder.demo.signing import signed
from forwarder.demo.workflow import WorkflowEvent

# Seconds before each further attempt; then every 15 minutes (Courier: delivery pipeline resilience).
COURIER_SCHEDULE_S = (5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 240.0, 480.0, 720.0, 900.0)
RUDDERSTACK_SCHEDULE_S = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
TIMEOUT_S = 10.0  # both vendors'

Headers = Mapping[str, str]


class LoadDriver:
    """Post to one daemon. `scale` shrinks the waits between attempts; `base_url` has no trailing slash."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        base_url: str,
        ledger: Ledger,
        *,
        schedule_s: Sequence[float],
        scale: float = 1.0,
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._ledger = ledger
        self._schedule_s = schedule_s
        self._scale = scale
        self.statuses: dict[int, int] = {}  # status → answers; 0 counts requests without an answer
        self.given_up = 0

    async def webhook(self, event: WorkflowEvent, secret: str) -> bool:
        """Post a signed webhook until it is acknowledged; False when it was given up."""
        self._ledger.post(event.facts)
        is_taken = await self._insist(
            "/webhooks/courier", event.body, lambda: signed(event.body, secret, time.time_ns() // 1_000_000)
        )
        if is_taken:
            self._ledger.acknowledge(event.facts.key)
        return is_taken

    async def call(self, call: Call, key: str) -> bool:
        """Post a call to its endpoint until it is acknowledged; False when it was given up."""
        self._ledger.post(call.facts)
        headers = {"Content-Type": "application/json", "Authorization": _authorization(call.endpoint, key)}
        is_taken = await self._insist(call.endpoint, call.body(), lambda: headers)
        if is_taken:
            self._ledger.acknowledge(call.facts.key)
        return is_taken

    async def _insist(self, path: str, body: bytes, headers: Callable[[], Headers]) -> bool:
        attempt = 0
        while True:
            status = await self._post(path, body, headers())
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                return True
            attempt += 1
            if not _may_heal(status):
                self.given_up += 1
                return False
            wait_s = self._schedule_s[min(attempt, len(self._schedule_s)) - 1]
            await asyncio.sleep(wait_s * self._scale)

    async def _post(self, path: str, body: bytes, headers: Headers) -> int:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._http.post(
                f"{self._base_url}{path}", data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0


def _may_heal(status: int) -> bool:
    if status in {0, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}:
        return True
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _authorization(endpoint: str, key: str) -> str:
    if endpoint.startswith("/v1/"):
        return "Basic " + base64.b64encode(f"{key}:".encode()).decode()
    return f"Bearer {key}"
