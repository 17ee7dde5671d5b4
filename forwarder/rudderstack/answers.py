"""What an answer of the data plane means for the events of its request. Pure: a table and a few rules.

The gateway's texts and statuses are those of rudder-server (`gateway/response/response.go`); whatever stands
in front of it is judged by its status alone. Reasons are ours and short: they never hold the vendor's words.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from forwarder.errors import NoAnswer, TakenOver
from forwarder.model import Delivered, Effect, Held, Refused, TryLater, Verdict
from forwarder.retry_after import retry_after_s

_SUCCESS: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_SERVER_ERRORS: Final = range(500, 600)
_LATER: Final = frozenset({408, 425, 429})
_REFUSED: Final = frozenset({400, 413, 422})
# A 400 that speaks of the request as a whole: something on the way mangles requests, no event is at fault.
_MANGLED: Final = frozenset({b"request body is nil", b"invalid http request method"})
_SOURCE_DISABLED: Final = b"source is disabled"
# The gateway's own texts, a closed set, and therefore safe to show and to log.
_GATEWAY_REFUSALS: Final = {
    b"invalid json": "not valid JSON",
    b"event is not a valid rudder event": "not an object",
    b"request neither has anonymousid nor userid": "neither userId nor anonymousId",
    b"empty batch payload": "empty batch",
    b"request size exceeds max limit": "too large",
}
_HELD_REASONS: Final = {
    401: "401: the write key is missing or unknown",
    402: "402: payment required",
    403: "403: forbidden",
    404: "404: the address is not a data plane's",
    405: "405: the address takes no events",
    407: "407: a proxy wants credentials",
    410: "410: the address is gone",
    411: "411: a proxy refuses the request's form",
    415: "415: a proxy refuses the request's form",
    431: "431: a proxy refuses the request's headers",
}


def judge(status: int, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Verdict:
    """Say what a whole answer means. Header names are lower-case; total over every status."""
    words = body.strip().lower()
    if status == HTTPStatus.OK:
        return _judge_ok(words)
    if status in _SUCCESS:  # a queueing collector in front accepts with 202 or 204
        return Delivered()
    if status in _REDIRECTS:  # followed, it would lose the body and look like success
        return Held(reason=f"{status}: redirected, set the final address", scope="route")
    if status in _LATER or status in _SERVER_ERRORS:
        effect = Effect.NONE if status == HTTPStatus.TOO_MANY_REQUESTS else Effect.ANSWERED
        after_s = retry_after_s(headers.get("retry-after", ""), now_ms=now_ms)
        return TryLater(reason=f"answered {status}", after_s=after_s, scope="route", effect=effect)
    if status in _REFUSED and words not in _MANGLED:
        return Refused(reason=f"{status}: {_GATEWAY_REFUSALS.get(words, 'refused')}")
    if status == HTTPStatus.NOT_FOUND and words == _SOURCE_DISABLED:
        reason = "404: the source is disabled"
    else:
        reason = _HELD_REASONS.get(status, f"{status}: not an answer of a data plane")
    return Held(reason=reason, scope="route")


def judge_no_answer(error: NoAnswer) -> TryLater | Held:
    """Say what it means that no whole answer came.

    One that cannot be read would come again and again: events are not sent as copies without end, one probes.
    """
    if isinstance(error, TakenOver):
        return TryLater(reason=str(error), after_s=None, scope="replica", effect=Effect.NONE)
    effect = Effect.UNKNOWN if error.request_left else Effect.NONE
    if error.is_lasting:
        return Held(reason=str(error), scope="route", effect=effect)
    return TryLater(reason=str(error), after_s=None, scope="route", effect=effect)


def _judge_ok(words: bytes) -> Verdict:
    if words.strip(b'"') == b"ok":
        return Delivered()
    return Held(reason="200, but not from a data plane: check the address", scope="route")
