"""Requests to Courier's REST API: address, key, idempotency headers, time-out.

Courier's own SDK is not used: it retries on its own account (even a 409), sends no idempotency key by
itself and brings a second HTTP stack. Deliberately absent: what an answer means, which is `answers`.
"""

from typing import Final

from forwarder.model import HttpRequest, HttpResponse
from forwarder.ports import Clock, Transport

TIMEOUT_S: Final = 10.0
# Courier keeps a key's answer for 24 h unless told otherwise, up to a year; an event may wait longer than a day.
KEY_LIFE_MS: Final = 30 * 24 * 3_600_000


class CourierClient:
    """One exchange at a time with Courier; safe to share between tasks.

    `base_url` is https://api.courier.com or, in the EU, https://api.eu.courier.com; a slash at its end is
    ignored.
    """

    def __init__(self, transport: Transport, *, base_url: str, api_key: str, clock: Clock) -> None:
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._authorization = f"Bearer {api_key}"
        self._clock = clock

    def __repr__(self) -> str:
        """Name the address, never the key."""
        return f"CourierClient({self._base_url})"

    def replace_key(self, api_key: str) -> None:
        """Take another API key; requests from now on carry it."""
        self._authorization = f"Bearer {api_key}"

    async def call(self, operation: str, body: bytes, *, idempotency_key: str = "") -> HttpResponse:
        """Make one request; `operation` is method and percent-encoded path, `POST /profiles/u1`. Raises `NoAnswer`."""
        return await self._transport.exchange(self.request(operation, body, idempotency_key=idempotency_key))

    def request(self, operation: str, body: bytes, *, idempotency_key: str = "") -> HttpRequest:
        """Return a request as it is sent. The idempotency key counts on POST alone, as Courier has it."""
        method, _, path = operation.partition(" ")
        headers = {"Authorization": self._authorization, "Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/json"
        if idempotency_key and method == "POST":
            headers["Idempotency-Key"] = idempotency_key
            headers["x-idempotency-expiration"] = str(self._clock.wall_ms() + KEY_LIFE_MS)
        return HttpRequest(
            method=method, url=f"{self._base_url}{path}", headers=headers, body=body, timeout_s=TIMEOUT_S
        )
