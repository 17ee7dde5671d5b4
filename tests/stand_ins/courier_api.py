"""A stand-in Courier REST API on a real socket: keys, idempotency replay, misfortune, effects in order.

What each endpoint does is in `courier_operations`, the memory of keys in `idempotency`, luck in
`chaos`. Here a request becomes an answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from urllib.parse import unquote

import orjson

from stand_ins.chaos import Chaos, Misfortune
from stand_ins.courier_operations import OPERATIONS
from stand_ins.courier_state import CourierState, Json, Known, Operation, Outcome, Params, invalid
from stand_ins.idempotency import Kept, Replays, Running, expiry_ms
from stand_ins.listener import Asked, NoReply, Said, StandIn

BODY_BYTES_MAX = 6_291_456
_JSON = {"Content-Type": "application/json"}
_SERVER_ERROR = Outcome(status=500, body={"message": "Internal Server Error", "type": "internal_error"})
_UNAUTHORIZED = Outcome(status=401, body={"message": "Unauthorized", "type": "authentication_error"})
# An unknown path is answered by what stands in front of Courier, not by Courier: no `type`.
_NOT_FOUND = Outcome(status=404, body={"message": "Not Found"})


class CourierApi(StandIn):
    """The stand-in API. Use it as an async context manager; ask `state` what happened.

    `trouble` answers single families or users: it is given method and path of every request that is
    authorised, and may return an outcome that is sent instead (nothing takes effect, nothing is kept).
    `on_request` is shown every request before it is judged. `delay_s` may keep single ones waiting before
    anything becomes of them.
    """

    def __init__(
        self,
        *,
        api_keys: Collection[str] = ("pk_test_standin",),
        known: Known | None = None,
        chaos: Chaos | None = None,
        silence_s: float = 0.05,
        retry_after_s: int = 1,
        effects_max: int | None = None,
        port: int = 0,
    ) -> None:
        self.api_keys = set(api_keys)
        self.state = CourierState(known or Known(), effects_max=effects_max)
        self.replays = Replays()
        super().__init__(self._answer, port=port)
        self.chaos = chaos
        self.trouble: Callable[[str, str], Outcome | None] | None = None
        self.on_request: Callable[[Asked], None] | None = None
        self.delay_s: Callable[[str, str], float] | None = None  # of method and path
        self.misfortunes: dict[Misfortune, int] = dict.fromkeys(Misfortune, 0)
        self.answers: deque[tuple[str, str, int]] = deque(maxlen=100_000)  # method, path, status
        self._silence_s = silence_s
        self._retry_after_s = retry_after_s

    async def _answer(self, asked: Asked) -> Said:
        if self.on_request is not None:
            self.on_request(asked)
        if self.delay_s is not None and (delay_s := self.delay_s(asked.method, asked.path)):
            await asyncio.sleep(delay_s)
        outcome = await self._judge(asked)
        self.answers.append((asked.method, asked.path, outcome.status))
        headers = {"Retry-After": str(self._retry_after_s)} if outcome.status == HTTPStatus.TOO_MANY_REQUESTS else {}
        if outcome.body is None:
            return Said(status=outcome.status, body=b"", headers=headers)
        return Said(status=outcome.status, body=orjson.dumps(outcome.body), headers=_JSON | headers)

    async def _judge(self, asked: Asked) -> Outcome:
        scheme, _, key = asked.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key not in self.api_keys:
            return _UNAUTHORIZED
        if self.trouble is not None and (outcome := self.trouble(asked.method, asked.path)) is not None:
            return outcome
        found = _find(asked)
        if found is None:
            return _NOT_FOUND
        if len(asked.body) > BODY_BYTES_MAX:
            return invalid("Request body is too large", 413)
        try:
            body = orjson.loads(asked.body) if asked.body else None
        except orjson.JSONDecodeError:
            return invalid("Request body is not valid JSON")
        return await self._with_luck(asked, *found, body)

    async def _with_luck(self, asked: Asked, operation: Operation, params: Params, body: Json) -> Outcome:
        luck = self.chaos.draw() if self.chaos is not None else Misfortune.NONE
        self.misfortunes[luck] += 1
        if luck is Misfortune.RATE_LIMITED:
            return Outcome(status=429, body={"message": "Too Many Requests"})
        if luck is Misfortune.LOST:
            await self._be_silent()
        key = asked.headers.get("idempotency-key", "") if asked.method == "POST" else ""

        def act() -> Outcome:
            if luck in {Misfortune.ERROR, Misfortune.SILENT_ERROR}:
                return _SERVER_ERROR
            outcome = self.state.perform(operation, params, body, query=asked.query, idempotency_key=key)
            return _SERVER_ERROR if luck is Misfortune.ERROR_AFTER_EFFECT and outcome.is_success else outcome

        outcome = self._once(asked.headers, key, act, is_late=luck is Misfortune.LATE)
        if luck in {Misfortune.SILENT, Misfortune.SILENT_ERROR}:
            await self._be_silent()
        return outcome

    async def _be_silent(self) -> None:
        await asyncio.sleep(self._silence_s)
        raise NoReply

    def _once(self, headers: Mapping[str, str], key: str, act: Callable[[], Outcome], *, is_late: bool) -> Outcome:
        if not key:
            return act()
        now_ms = time.time_ns() // 1_000_000
        expires_at_ms = expiry_ms(headers.get("x-idempotency-expiration"), now_ms=now_ms)
        if expires_at_ms is None:
            return invalid("x-idempotency-expiration must lie between 24 hours and a year ahead")
        try:
            kept = self.replays.begin(key, now_ms=now_ms)
        except Running:
            return invalid("a request with this idempotency key is running", 409)
        if kept is not None:
            return Outcome(status=kept.status, body=orjson.loads(kept.body) if kept.body else None)
        if is_late:
            asyncio.get_running_loop().call_later(self._silence_s, self._finish, key, act, expires_at_ms)
            raise NoReply
        return self._finish(key, act, expires_at_ms)

    def _finish(self, key: str, act: Callable[[], Outcome], expires_at_ms: int) -> Outcome:
        outcome = act()
        if outcome.is_invalid and outcome.status in {400, 413}:
            self.replays.forget(key)
            return outcome
        stored = b"" if outcome.body is None else orjson.dumps(outcome.body)
        self.replays.keep(key, Kept(status=outcome.status, body=stored, expires_at_ms=expires_at_ms))
        return outcome


def _find(asked: Asked) -> tuple[Operation, dict[str, str]] | None:
    # Each segment is decoded by itself: an id may contain an encoded slash.
    segments = [unquote(segment) for segment in asked.path.strip("/").split("/")]
    for operation in OPERATIONS:
        params = operation.match(asked.method, segments)
        if params is not None:
            return operation, params
    return None
