"""A stand-in RudderStack gateway: its routes, Basic auth, statuses and texts, on a real socket.

What it says to a body is in `gateway_rules`; how it misbehaves in `behaviour`. It remembers what it
stored, so that a test or the demo can compare that with what was acknowledged.
"""

import asyncio
import base64
import binascii
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from stand_ins.gateway_rules import (
    CALLS,
    INVALID_WRITE_KEY,
    NO_WRITE_KEY,
    SOURCE_DISABLED,
    UNKNOWN_PATH,
    Event,
    Refusal,
    Taken,
    judge,
    unpack,
)
from stand_ins.listener import Asked, Said, StandIn

_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_HEALTH = (
    b'{"appType":"EMBEDDED","server":"UP","db":"UP","acceptingEvents":"TRUE","routingEvents":"TRUE",'
    b'"mode":"NORMAL","backendConfigMode":"API","lastSync":"","lastRegulationSync":""}'
)
_MESSAGE_IDS_REMEMBERED = 500_000
_GETS = {"/health": _HEALTH, "/": _HEALTH, "/version": b'{"Version":"stand-in"}', "/robots.txt": b"User-agent: *\n"}


class DataPlane(StandIn):
    """The stand-in gateway. Use it as an async context manager; set `script` to make it misbehave.

    `events` holds what it stored, oldest first, at most `events_max` (None: all); the counters are
    exact whatever is kept.
    """

    def __init__(
        self,
        *,
        write_keys: Collection[str] = ("stand-in-write-key",),
        port: int = 0,
        events_max: int | None = None,
        rate_limit_events: int | None = None,
    ) -> None:
        self.write_keys = set(write_keys)
        self.disabled_keys: set[str] = set()
        super().__init__(self._answer, port=port)
        self.events: deque[Event] = deque(maxlen=events_max)
        self.vanished: list[Event] = []  # answered `ok` and lost behind it, as the real one does
        self.is_wedged = False  # something so deep was stored that the real one would stand still
        self.stored = 0
        self.duplicates = 0  # stored events whose messageId was stored before
        self.batches: deque[int] = deque(maxlen=10_000)  # number of events of each request that was judged
        self.answers: deque[int] = deque(maxlen=10_000)  # status of each answer that was not scripted
        self.events_left = rate_limit_events
        self.poison: Callable[[Event], Refusal | None] | None = None  # refuses the whole batch it is in
        self.on_stored: Callable[[Event], None] | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._changed = asyncio.Condition()

    async def wait_for(self, stored: int, *, timeout_s: float) -> bool:
        """Wait until so many events were stored, duplicates included; False at the time-out."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self.stored >= stored)
        except TimeoutError:
            return False
        return True

    async def _answer(self, asked: Asked) -> Said:
        said = await self._route(asked)
        self.answers.append(said.status)
        return said

    async def _route(self, asked: Asked) -> Said:
        if asked.path in _GETS:
            return Said(status=200, body=_GETS[asked.path]) if asked.method == "GET" else _wrong_method("GET")
        call = asked.path.removeprefix("/v1/")
        if not asked.path.startswith("/v1/") or call not in CALLS | {"batch", "import"}:
            return _said(UNKNOWN_PATH)
        if asked.method != "POST":
            return _wrong_method("POST")
        refusal = self._check_key(asked.headers.get("authorization", ""))
        return _said(refusal) if refusal else await self._take(asked, "batch" if call == "import" else call)

    def _check_key(self, authorization: str) -> Refusal | None:
        key = basic_user(authorization)
        if not key:
            return NO_WRITE_KEY
        if key in self.disabled_keys:
            return SOURCE_DISABLED
        return None if key in self.write_keys else INVALID_WRITE_KEY

    async def _take(self, asked: Asked, call: str) -> Said:
        body = unpack(asked.body, asked.headers.get("content-encoding", ""))
        if isinstance(body, Refusal):
            return _said(body)
        now_iso = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        verdict = judge(body, call=call, events_left=self.events_left, now_iso=now_iso)
        if isinstance(verdict, Refusal):
            return _said(verdict)
        poison = self.poison
        if poison is not None:
            for event in verdict.events:
                if culprit := poison(event):
                    return _said(culprit)
        await self._store(verdict)
        return Said(status=200, body=b"ok", headers=_TEXT)

    async def _store(self, taken: Taken) -> None:
        self.batches.append(len(taken.events))
        self.vanished.extend(taken.vanished)
        self.is_wedged = self.is_wedged or taken.is_wedged
        if self.events_left is not None:
            self.events_left -= len(taken.events) + len(taken.vanished)
        for event in taken.events:
            self._count(event)
            self.events.append(event)
            if self.on_stored is not None:
                self.on_stored(event)
        async with self._changed:
            self._changed.notify_all()

    def _count(self, event: Event) -> None:
        self.stored += 1
        message_id = event["messageId"]
        if message_id in self._seen:
            self.duplicates += 1
        self._seen[message_id] = None
        if len(self._seen) > _MESSAGE_IDS_REMEMBERED:
            self._seen.popitem(last=False)


def basic_user(authorization: str) -> str:
    """Return the user of HTTP Basic credentials, "" where there is none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _said(refusal: Refusal) -> Said:
    return Said(status=refusal.status, body=f"{refusal.text}\n".encode(), headers=_TEXT)


def _wrong_method(allowed: str) -> Said:
    return Said(status=405, body=b"", headers={"Allow": allowed})
