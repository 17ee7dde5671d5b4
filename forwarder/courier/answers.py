"""What an answer of Courier's API means for the event it was asked for. Pure.

`reason` of a verdict is ours, from a closed set of texts, and may be logged. What Courier said is kept
apart (`Refused.words`): it may quote the payload.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import msgspec

from forwarder.courier.calls import RateLimitGroup
from forwarder.errors import NoAnswer, TakenOver
from forwarder.model import Delivered, Effect, Filtered, Held, Refused, TryLater, Verdict
from forwarder.retry_after import retry_after_s

_WORDS_LENGTH_MAX: Final = 500  # characters of Courier's words that are kept with a dead event

_REFUSED: Final = frozenset({400, 413, 422})
_BLAMED_ON_CALL: Final = frozenset({400, 422})
_LATER: Final = frozenset({408, 409, 425})
_SERVER_ERRORS: Final = range(500, 600)
_SUCCESS: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)

# What a link or an event named and Courier does not know.
_NAMED: Final = {
    RateLimitGroup.AUTOMATIONS.value: "automation template",
    RateLimitGroup.JOURNEYS.value: "journey",
    RateLimitGroup.SEND.value: "notification template",
    RateLimitGroup.LISTS.value: "list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The call that was answered."""

    operation: str  # "POST /profiles/u1"
    group: str
    body: bytes = b""

    @property
    def method(self) -> str:
        """Return the HTTP method."""
        return self.operation.partition(" ")[0]


def judge(asked: Asked, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> Verdict:
    """Say what a whole answer means. Header names are lower-case; total over every status."""
    is_done = (
        status in _SUCCESS
        or (status == HTTPStatus.CONFLICT and asked.group == RateLimitGroup.INBOUND)  # it was accepted before
        or (status == HTTPStatus.NOT_FOUND and asked.method == "DELETE")
    )
    if (is_done or status in _BLAMED_ON_CALL) and _is_page(headers, body):
        # Something answers in Courier's place: nothing was done, and the call may be as good as any.
        return Held(reason=f"{status} with a page: not an answer of Courier's API", scope=asked.group)
    if is_done:
        return Delivered()
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and asked.group == RateLimitGroup.JOURNEYS:
        return Filtered(reason="422: the journey's own conditions were not met")
    if status in _REFUSED:
        return Refused(reason=f"{status}: Courier refused the {asked.group} call", words=_words(body))
    if status == HTTPStatus.NOT_FOUND and asked.group in _NAMED and error_message(body) is not None:
        named = _NAMED[asked.group]
        words = f"{_target(asked)}: {_words(body)}"
        return Refused(reason=f"404: Courier knows no such {named}", words=words)
    is_later = status in _LATER or status in _SERVER_ERRORS or status == HTTPStatus.TOO_MANY_REQUESTS
    return _later(asked, status, headers, now_ms=now_ms) if is_later else _hold(asked, status)


def judge_no_answer(asked: Asked, error: NoAnswer) -> TryLater | Held:
    """Say what it means that no whole answer came.

    A connection that could not be made is nobody's fault in particular: then the whole route waits. An answer
    that cannot be read would come again and again, and so would a proxy's refusal: that needs somebody's hand.
    """
    if isinstance(error, TakenOver):
        return TryLater(reason=str(error), after_s=None, scope="replica", effect=Effect.NONE)
    if error.is_lasting and error.request_left:
        return Held(reason=str(error), scope=asked.group, effect=Effect.UNKNOWN)
    if error.is_lasting:
        return Held(reason=str(error), scope="route")
    if not error.request_left:
        return TryLater(reason=f"no answer: {error}", after_s=None, scope="route", effect=Effect.NONE)
    return TryLater(reason=f"no answer: {error}", after_s=None, scope="event", effect=Effect.UNKNOWN)


def error_message(body: bytes) -> str | None:
    """Return the message of Courier's error object, `{"message": "…", "type": "…"}`; None if it is none.

    It tells a resource that Courier does not know from an address that is not Courier's.
    """
    try:
        error = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if not isinstance(error, dict) or not isinstance(error.get("type"), str):
        return None
    message = error.get("message")
    return message if isinstance(message, str) else None


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or (
        bool(body) and "html" in headers.get("content-type", "").lower()
    )


def _later(asked: Asked, status: int, headers: Mapping[str, str], *, now_ms: int) -> TryLater:
    after_s = retry_after_s(headers.get("retry-after", ""), now_ms=now_ms)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        # A limit on lists must not stop profiles: only this group waits.
        return TryLater(reason="answered 429", after_s=after_s, scope=asked.group, effect=Effect.NONE)
    return TryLater(reason=f"answered {status}", after_s=after_s, scope="event", effect=Effect.ANSWERED)


def _hold(asked: Asked, status: int) -> Held:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return Held(reason="401: the API key is missing, unknown or of another environment", scope="route")
        case HTTPStatus.FORBIDDEN:
            return Held(reason=f"403: the API key may not make {asked.group} calls", scope=asked.group)
        case HTTPStatus.NOT_FOUND:
            return Held(reason=f"404: the address has no {asked.group} calls", scope=asked.group)
        case _ if status in _REDIRECTS:
            return Held(reason=f"{status}: redirected, set the final address", scope="route")
        case _:
            return Held(reason=f"{status}: not an answer of Courier's API", scope="route")


def _words(body: bytes) -> str:
    message = error_message(body)
    return (message if message is not None else body.decode(errors="replace"))[:_WORDS_LENGTH_MAX]


def _target(asked: Asked) -> str:
    """Return which template, journey or list was asked for."""
    if asked.group == RateLimitGroup.SEND:
        return f'"{_send_template(asked.body)}"'
    if asked.operation == "POST /automations/invoke":
        return "in the event's own steps"
    return f'"{unquote(asked.operation.split("/")[2])}"'


def _send_template(body: bytes) -> str:
    try:
        template = msgspec.json.decode(body)["message"]["template"]
    except (msgspec.MsgspecError, KeyError, TypeError, IndexError):
        return ""
    return template if isinstance(template, str) else ""
