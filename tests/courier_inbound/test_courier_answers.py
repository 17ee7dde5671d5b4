"""What Courier's answers mean, answer by answer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.answers import Asked, error_message, judge, judge_no_answer
from forwarder.courier.calls import RateLimitGroup
from forwarder.errors import NoAnswer, TakenOver
from forwarder.model import Delivered, Effect, Filtered, Held, Refused, TryLater
from forwarder.retry_after import retry_after_s

_NOW_MS = 1_767_225_600_000
_ERROR = b'{"message": "Bad thing u1", "type": "invalid_request_error"}'

_OPERATIONS = {
    "profiles": "POST /profiles/u1",
    "tenants": "PUT /tenants/t1",
    "automations": "POST /automations/caf%C3%A9/invoke",
    "journeys": "POST /journeys/j%2F1/invoke",
    "send": "POST /send",
    "lists": "PUT /lists/l1/subscriptions/u1",
    "inbound": "POST /inbound/segment",
}


def _asked(group: str, operation: str = "") -> Asked:
    body = b'{"message": {"template": "T1"}}' if group == "send" else b"{}"
    return Asked(operation=operation or _OPERATIONS[group], group=group, body=body)


@pytest.mark.parametrize(
    ("group", "operation", "status", "body", "verdict"),
    [
        ("profiles", "", 200, b"{}", Delivered),
        ("send", "", 202, b"", Delivered),
        ("lists", "", 204, b"", Delivered),
        ("inbound", "", 409, _ERROR, Delivered),
        ("lists", "DELETE /lists/l/subscriptions/u", 404, b"", Delivered),
        ("profiles", "", 200, b"", Delivered),
        ("profiles", "", 200, b'"<html>"', Delivered),
        ("profiles", "", 200, b"\xef\xbb\xbf\r\n <!doctype html>", Held),
        ("automations", "", 202, b"<html>", Held),
        ("lists", "DELETE /lists/l/subscriptions/u", 404, b"<html>", Held),
        ("lists", "DELETE /lists/l/subscriptions/u", 404, _ERROR, Delivered),
        ("journeys", "", 422, _ERROR, Filtered),
        ("profiles", "", 400, _ERROR, Refused),
        ("inbound", "", 413, b"", Refused),
        ("automations", "", 422, b"", Refused),
        ("automations", "", 404, _ERROR, Refused),
        ("journeys", "", 404, _ERROR, Refused),
        ("send", "", 404, _ERROR, Refused),
        ("lists", "", 404, _ERROR, Refused),
        ("automations", "", 404, b"<html>", Held),
        ("automations", "", 404, b'{"message": "Not Found"}', Held),
        ("profiles", "", 404, _ERROR, Held),
        ("inbound", "", 404, _ERROR, Held),
        ("lists", "", 403, b"", Held),
        ("profiles", "", 401, b"", Held),
        ("profiles", "", 302, b"", Held),
        ("profiles", "", 405, b"", Held),
        ("profiles", "", 418, b"", Held),
        ("profiles", "", 600, b"", Held),
        ("profiles", "", 408, b"", TryLater),
        ("profiles", "", 409, _ERROR, TryLater),
        ("profiles", "", 425, b"", TryLater),
        ("lists", "", 429, b"", TryLater),
        ("profiles", "", 500, b"", TryLater),
        ("profiles", "", 599, b"", TryLater),
    ],
)
def test_an_answer_means_what_the_table_says(
    group: str, operation: str, status: int, body: bytes, verdict: type
) -> None:
    """Each answer of Courier has exactly one meaning for the event it was given for."""
    assert isinstance(judge(_asked(group, operation), status, {}, body, now_ms=_NOW_MS), verdict)


@pytest.mark.parametrize(
    ("group", "status", "scope"),
    [("lists", 403, "lists"), ("profiles", 404, "profiles"), ("profiles", 401, "route"), ("send", 301, "route")],
)
def test_a_hold_is_as_narrow_as_its_cause(group: str, status: int, scope: str) -> None:
    """A permission or an address that fails holds its group of calls; a key or a redirect holds the route."""
    verdict = judge(_asked(group), status, {}, b"", now_ms=_NOW_MS)
    assert isinstance(verdict, Held)
    assert verdict.scope == scope
    assert str(status) in verdict.reason


@pytest.mark.parametrize(
    ("status", "scope", "effect"),
    [(429, "lists", Effect.NONE), (503, "event", Effect.ANSWERED), (409, "event", Effect.ANSWERED)],
)
def test_later_says_who_waits_and_what_may_have_happened(status: int, scope: str, effect: Effect) -> None:
    """A limit stops its group alone and has no effect; an error stops the one event and was answered."""
    verdict = judge(_asked("lists"), status, {"retry-after": "7"}, b"", now_ms=_NOW_MS)
    assert isinstance(verdict, TryLater)
    assert (verdict.scope, verdict.effect, verdict.after_s) == (scope, effect, 7)


@pytest.mark.parametrize(
    ("request_left", "effect", "scope"), [(True, Effect.UNKNOWN, "event"), (False, Effect.NONE, "route")]
)
def test_no_answer_says_whether_the_request_left(*, request_left: bool, effect: Effect, scope: str) -> None:
    """A request that certainly did not leave had no effect, and nobody gets through; of any other nothing is known."""
    verdict = judge_no_answer(_asked("lists"), NoAnswer("time-out", request_left=request_left))
    assert isinstance(verdict, TryLater)
    assert (verdict.effect, verdict.scope, verdict.after_s) == (effect, scope, None)
    assert verdict.reason == "no answer: time-out"


@pytest.mark.parametrize("group", _OPERATIONS)
def test_a_page_in_couriers_place_is_a_hold_of_its_group(group: str) -> None:
    """Whatever was asked: a page is not Courier's, as success or as refusal; what Courier says is, also nothing."""
    for status in (200, 201, 202, 204, 400, 422):
        for headers, body in (({}, b"<!doctype html><p>hello"), ({"content-type": "text/html"}, b"Access denied")):
            verdict = judge(_asked(group), status, headers, body, now_ms=_NOW_MS)
            assert verdict == Held(reason=f"{status} with a page: not an answer of Courier's API", scope=group)
    json = {"content-type": "application/json"}
    for status, headers, body in (
        (200, json, b'{"status":"SUCCESS"}'),
        (200, json, b'{"runId":"1-5e"}'),
        (202, json, b'{"messageId":"1-5e"}'),
        (202, {}, b""),
        (200, json, b""),
        (204, {}, b""),
        (204, {"content-type": "text/html"}, b""),
    ):
        assert judge(_asked(group), status, headers, body, now_ms=_NOW_MS) == Delivered()


def test_a_page_by_its_header_is_a_hold_of_its_group() -> None:
    """A page instead of JSON, told by its type, comes from something in front of Courier: nothing was done."""
    asked = _asked("profiles")
    page = judge(asked, 200, {"content-type": "Text/HTML; charset=utf-8"}, b"welcome", now_ms=_NOW_MS)
    assert page == Held(reason="200 with a page: not an answer of Courier's API", scope="profiles")
    assert judge(asked, 204, {"content-type": "text/html"}, b"", now_ms=_NOW_MS) == Delivered()


def test_an_answer_that_cannot_be_read_holds_its_group() -> None:
    """It may have been done, and would be answered so again: it is not repeated without end."""
    verdict = judge_no_answer(_asked("lists"), NoAnswer("unreadable", request_left=True, is_lasting=True))
    assert verdict == Held(reason="unreadable", scope="lists", effect=Effect.UNKNOWN)


def test_a_proxy_that_lets_nobody_through_holds_the_route() -> None:
    """No call of any group leaves, and none has an effect."""
    verdict = judge_no_answer(_asked("lists"), NoAnswer("proxy", request_left=False, is_lasting=True))
    assert verdict == Held(reason="proxy", scope="route", effect=Effect.NONE)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("automations", '"café": Bad thing u1'),
        ("journeys", '"j/1": Bad thing u1'),
        ("send", '"T1": Bad thing u1'),
        ("lists", '"l1": Bad thing u1'),
    ],
)
def test_a_refusal_says_which_template_but_not_in_what_is_logged(group: str, words: str) -> None:
    """Courier's words and the template's name are kept for people, apart from the reason that logs may hold."""
    verdict = judge(_asked(group), 404, {}, _ERROR, now_ms=_NOW_MS)
    assert isinstance(verdict, Refused)
    assert verdict.words == words
    assert "u1" not in verdict.reason


def test_steps_of_the_event_itself_name_no_template() -> None:
    """A refused ad-hoc run says that the template stood in the event's own steps."""
    asked = Asked(operation="POST /automations/invoke", group="automations")
    verdict = judge(asked, 404, {}, _ERROR, now_ms=_NOW_MS)
    assert isinstance(verdict, Refused)
    assert verdict.words == "in the event's own steps: Bad thing u1"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"message": []}', b"{"])
def test_an_unreadable_send_names_no_template(body: bytes) -> None:
    """A refused send whose body is of another shape is refused all the same."""
    verdict = judge(Asked(operation="POST /send", group="send", body=body), 404, {}, _ERROR, now_ms=_NOW_MS)
    assert isinstance(verdict, Refused)
    assert verdict.words.startswith('"": ')


def test_words_are_cut_and_need_no_error_object() -> None:
    """What Courier says is kept up to a limit, also when it is no error object."""
    verdict = judge(_asked("profiles"), 400, {}, b"\xff" * 5_000, now_ms=_NOW_MS)
    assert isinstance(verdict, Refused)
    assert verdict.words == "\ufffd" * 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_ERROR, "Bad thing u1"),
        (b'{"message": "m"}', None),
        (b'{"message": 3, "type": "t"}', None),
        (b"[]", None),
        (b"[" * 5_000, None),
        (b"", None),
    ],
)
def test_only_couriers_error_object_counts_as_one(body: bytes, message: str | None) -> None:
    """A gateway's own error is not taken for Courier's."""
    assert error_message(body) == message


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("5", 5),
        (" 1200 ", 300),
        ("9" * 30, 300),
        ("0", None),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 00:00:30", 30),
        ("Wed, 31 Dec 2025 00:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_capped(value: str, wait_s: float | None) -> None:
    """Seconds and dates count, up to five minutes; anything else leaves the wait to our backoff."""
    assert retry_after_s(value, now_ms=_NOW_MS) == wait_s


@settings(max_examples=150, deadline=None)
@given(
    group=st.sampled_from([group.value for group in RateLimitGroup]),
    status=st.integers(100, 700),
    body=st.binary(max_size=60),
    after=st.text(max_size=30),
)
def test_every_answer_has_a_meaning_and_its_reason_quotes_nothing(
    group: str, status: int, body: bytes, after: str
) -> None:
    """Whatever is answered gets a verdict, and what may be logged of it comes from a closed set of texts."""
    verdict = judge(_asked(group), status, {"retry-after": after}, body, now_ms=_NOW_MS)
    kind = _ERROR if error_message(body) is not None else b"<" if body.strip().startswith(b"<") else b""
    plain = judge(_asked(group), status, {}, kind, now_ms=_NOW_MS)
    assert type(verdict) is type(plain)
    if not isinstance(verdict, Delivered) and not isinstance(plain, Delivered):
        assert verdict.reason == plain.reason


def test_what_another_replica_may_have_is_no_standstill() -> None:
    """The call was not made: it is this event alone that is given back, not the route or the group that waits."""
    verdict = judge_no_answer(_asked("lists"), TakenOver())
    assert verdict == TryLater(
        reason="another replica may have taken this over", after_s=None, scope="replica", effect=Effect.NONE
    )
