"""The outbound mapper: what no sample shows."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.cli.dry_run import Outcome, outbound_outcome
from forwarder.courier.event import usual
from forwarder.courier.wire import envelope
from forwarder.errors import Unmappable
from forwarder.ingress.elements import Element
from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack, Preset
from forwarder.mapping.fields import is_blank_id
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import EventSelection
from forwarder.model import Delivery, Lease
from forwarder.rudderstack.calls import TrackCalls

_RECEIVED_AT_MS = 1_795_557_600_000
_CALLS = TrackCalls(version="1.2.3")


def _mapper(*, preset: Preset = "courier", events: str = "all", rules: str = "") -> CourierToRudderStack:
    return CourierToRudderStack(_CALLS, preset=preset, selection=EventSelection.of([events]), rules=Rules.parse(rules))


def _explained(mapper: CourierToRudderStack, payload: bytes, *, at_ms: int = _RECEIVED_AT_MS) -> Outcome:
    return outbound_outcome(mapper, Element(payload, None), at_ms=at_ms, source="webhook")


def _sent(data: dict[str, Any], *, kind: str = "message:updated", rules: str = "", **beside: Any) -> dict[str, Any]:
    payload = json.dumps({"type": kind, "data": data, **beside}).encode()
    explanation = _explained(_mapper(rules=rules), payload)
    call: dict[str, Any] = explanation["call"]
    return call


def _message(**fields: Any) -> dict[str, Any]:
    return {"id": "1-6955c3a2-243dac7046444e2fec3a4a30", "status": "SENT", "recipient": "usr_1", **fields}


def _nested(levels: int) -> dict[str, Any]:
    """Return data whose event is nested so many levels deep: the event and its properties are two."""
    value: Any = 1
    for _ in range(levels - 2):
        value = {"a": value}
    return _message(deep=value)


def test_two_hundred_levels_are_taken() -> None:
    """An event nested 200 levels deep leaves."""
    assert _sent(_nested(200))["event"] == "Message Sent"


@pytest.mark.parametrize("levels", [201, 900, 5_000])
def test_what_is_nested_deeper_never_leaves(levels: int) -> None:
    """What would stop a real server is refused here, with its reason."""
    inner = "{" + '"a":{' * (levels - 2) + "}" * (levels - 2) + "}"
    payload = (
        '{"type":"message:updated","data":{"id":"1","status":"SENT","deep":' + inner[1:-1].partition(":")[2] + "}}"
    ).encode()
    explanation = _explained(_mapper(), payload)
    assert explanation["outcome"] == "dead"
    assert explanation["reason"] == "nested deeper than 200 levels"


def test_rules_cannot_nest_deeper() -> None:
    """Whatever rules put into one another, and whatever they are let loose on, the limit holds."""
    deeper = _explained(
        _mapper(rules='salt = ""\n[[rule]]\nhash = ["properties.deep"]\ncopy = {"properties.a.b.c" = "data.deep"}'),
        json.dumps({"type": "message:updated", "data": _nested(200)}).encode(),
    )
    assert deeper["reason"] == "nested deeper than 200 levels"


_FORBIDDEN = {
    "as it is": rb'"__proto__":1',
    "spelt with escapes": rb'"__\u0070roto__":1',
    "all of it in escapes": rb'"\u005F\u005fproto\u005f\u005f":1',
    "with blanks behind it": b'"__proto__" \n : 1',
    "deep": rb'"a":[{"b":[[{"c":1,"__proto__":{"__proto__":{}}}]]}]',
}


@pytest.mark.parametrize("member", _FORBIDDEN.values(), ids=_FORBIDDEN.keys())
@pytest.mark.parametrize("preset", ["courier", "channel"])
def test_a_key_that_makes_rudderstack_drop_its_neighbours_is_renamed(member: bytes, preset: Preset) -> None:
    """However a key `__proto__` is spelt and wherever it stands, it leaves as `_proto_`, and the event is noted."""
    payload = b'{"type":"audiences:user:matched","data":{"user_id":"u","metadata":{%b}}}' % member
    explanation = _explained(_mapper(preset=preset), payload)
    sent = json.dumps(explanation["call"])
    assert '"__proto__"' not in sent
    assert '"_proto_"' in sent
    assert explanation["reason"] == "a key named __proto__ left as _proto_"


def test_a_forbidden_key_made_by_a_rule_is_renamed() -> None:
    """A rule cannot make one either, in properties or in the context."""
    rules = """[[rule]]
set = { "properties.__proto__.x" = 1, "context.traits.__proto__" = 2 }
"""
    sent = _sent(_message(), rules=rules)
    assert sent["properties"]["_proto_"] == {"x": 1}
    assert sent["context"]["traits"]["_proto_"] == 2


def test_the_word_alone_is_no_key() -> None:
    """Texts that hold the word, quoted or not, leave as they are, and nothing is noted."""
    texts = ["__proto__", '{"__proto__":1}', ',"__proto__":', "\\"]
    payload = json.dumps({"type": "message:updated", "data": _message(texts=texts, **{'a"__proto__': 1})}).encode()
    explanation = _explained(_mapper(), payload)
    assert explanation["call"]["properties"]["texts"] == texts
    assert explanation["call"]["properties"]['a"__proto__'] == 1
    assert "reason" not in explanation


def test_many_brackets_side_by_side_are_not_depth() -> None:
    """Long lists, and brackets inside texts, count as what they are."""
    assert _sent(_message(tags=[[] for _ in range(300)], text='["{' * 300))["event"] == "Message Sent"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_entries = st.dictionaries(
    st.sampled_from(["provider", "channel", "status", "error", "sent", "delivered"]),
    st.sampled_from(["sendgrid", "email", "SENT", {"key": "push:apn"}, "550 bounced", 1_767_228_324_560]) | _values,
)
_datas = st.dictionaries(
    st.sampled_from(
        ["id", "status", "sent", "delivered", "recipient", "recipientId", "user_id", "providers", "reason", "metadata"]
    ),
    st.sampled_from(["SENT", "DELIVERED", "UNDELIVERABLE", "usr_1", "maya@example.com", 1_767_228_324_560])
    | st.lists(_entries, max_size=3)
    | _values,
)
_kinds = st.sampled_from(["message:updated", "audiences:user:matched", "notification:published", "x:y"])
_RULES = """salt = "s"
[[rule]]
when = { field = "data.providers[].error", matches = "bounc" }
rename = "Bounced"
set = { "context.traits.a.b" = 1, "properties.providers[].x" = 2 }
hash = ["properties.recipient", "userId", "context.traits.email"]
remove = ["properties.id", "anonymousId"]
"""


@settings(max_examples=200, deadline=None)
@given(kind=_kinds, data=_datas, preset=st.sampled_from(["courier", "channel"]), rules=st.sampled_from(["", _RULES]))
def test_any_event_of_good_form_is_a_good_call_or_has_a_reason(
    kind: str, data: dict[str, Any], preset: Preset, rules: str
) -> None:
    """Whatever stands in the data, the call has the name, id and time that the gateway needs, or a reason."""
    payload = json.dumps({"type": kind, "data": data}).encode()
    explanation = _explained(_mapper(preset=preset, rules=rules), payload)
    if "call" not in explanation:
        assert explanation["reason"]
        return
    call = explanation["call"]
    assert call["type"] == "track"
    assert call["event"]
    assert call["integrations"]["All"] is True
    assert not is_blank_id(call["userId"] or call["anonymousId"])
    assert "2010" <= call["timestamp"][:4] < "2100"


_USUAL = {
    '"id"': '"1-6955"',
    '"status"': '"SENT"',
    '"sent"': "1767228324560",
    '"recipient"': '"usr_1"',
    '"recipientId"': '"usr_1"',
    '"providers"': '[{"provider":"sendgrid","status":"SENT","channel":{"key":"email"},"sent":1767228324559}]',
}
_DEEP = "[" * 201 + "]" * 201
_OTHERWISE = [
    *("null", "1e999", "9" * 310, "-1", "0", "1.5", "1e3", "true", '""', '" "', '"\\ud800"', '"\\u00fc\\n"', '"usr_2"'),
    *('"SENT"', '"sent"', '"DELIVERED"', '"ROUTED"', '"x@y.org"', '"+4915112345678"', '"a b"', '"\xa0"', '"\u2063"'),
    *(_DEEP, "{}", "[]", "[null]", "[7]", '[{"sent":1e999}]', '[{"status":"OPENED"},{"status":"SENT","sent":17}]'),
    *(f'[{{"reference":{{"x":{value}}}}}]' for value in ('"1"', "1", "1e999", "9" * 310, "1.5", "null", _DEEP)),
    *(
        '[{"reference":{"__proto__":1}}]',
        '[{"reference":{"\\u005f_proto__":1}}]',
        '[{"__proto__":1}]',
        '{"__proto__":1}',
    ),
    "1767228324560",
]
_BESIDE = ['"tags"', '"__proto__"', '"\\u0073tatus"', '"timestamp"', '"enqueued"', '"error"', '"user_id"']


@pytest.mark.parametrize("form", ['{"type":"message:updated","data":%s}', '{"data":%s,"type":"message:updated"}'])
def test_the_usual_message_is_mapped_as_any_other(form: str) -> None:
    """What is read in one step becomes what the long way makes of it; also with any one field otherwise."""
    changed = [{name: value} for name in (*_USUAL, *_BESIDE) for value in _OTHERWISE]
    absent = [{name: ""} for name in _USUAL]
    for change in ({}, *changed, *absent):
        members = [f"{name}:{value}" for name, value in {**_USUAL, **change}.items() if value]
        payload = (form % ("{" + ",".join(members) + "}")).encode()
        # Only the long way takes a blank at the end.
        assert _outcome(payload) == _outcome(payload + b" "), payload[:300]
        assert _outcome(payload, is_summed_up=True) == _outcome(payload), payload[:300]
        assert isinstance(_outcome(payload[:-1] + b"]"), str)  # refused: it is no JSON


def _outcome(payload: bytes, *, is_summed_up: bool = False) -> object:
    summary = envelope(payload, received_at_ms=1, source="webhook").summary if is_summed_up else None
    kept = envelope(b"{}", received_at_ms=1, source="webhook")
    kept = msgspec.structs.replace(kept, payload=payload, summary=summary)
    try:
        delivery = _mapper().delivery(1, kept)
    except Unmappable as error:
        return str(error)
    return (json.loads(delivery.body), delivery.note) if isinstance(delivery, Delivery) else delivery


def test_courier_s_own_messages_are_usual() -> None:
    """The short way is the way of what Courier really sends: else nobody would notice that it is not taken."""
    cases = json.loads((Path(__file__).parents[1] / "vectors" / "courier_webhooks.json").read_text())
    sent = {case["name"]: msgspec.json.encode(case["body"]) for case in cases}
    quick = {name for name, body in sent.items() if usual(body) is not None}
    assert {"sent_email_sendgrid", "delivered_email_sendgrid", "opened_email_sendgrid"} <= quick
    wrapped = {name: envelope(sent[name], received_at_ms=1, source="webhook") for name in quick}
    assert {"sent_email_sendgrid", "delivered_email_sendgrid"} <= {n for n, one in wrapped.items() if one.summary}


def test_the_delivery_is_the_leases() -> None:
    """One delivery comes of one lease, with its sequence and a body that is one track call."""
    kept = envelope(
        json.dumps({"type": "message:updated", "data": _message()}).encode(), received_at_ms=1, source="webhook"
    )
    lease = Lease(sequence=9, attempt=3, first_failed_at_ms=5, progress=b"x", envelope=kept)
    mapped = _mapper().map(lease)
    assert isinstance(mapped, tuple)
    assert [(delivery.sequence, delivery.operation) for delivery in mapped] == [(9, "track")]
    assert isinstance(mapped[0], Delivery)
    assert json.loads(mapped[0].body)["messageId"] == "courier-" + kept.event_key.hex()
    assert mapped == _mapper().map(lease)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"no json", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"type":"a b","data":{}}', "`type` is not of Courier's form"),
        (b'{"type":"' + b"a" * 101 + b'","data":{}}', "`type` is not of Courier's form"),
        (b'{"type":"message:updated","data":{"status":"7"}}', "`data.status` is not of Courier's form"),
        (
            b'{"type":"message:updated","data":{"status":"' + b"A" * 101 + b'"}}',
            "`data.status` is not of Courier's form",
        ),
        (
            b'{"type":"message:updated","data":{"status":"SENT","x":"' + b"x" * 4_096_000 + b'"}}',
            "larger than 4096000 bytes",
        ),
    ],
)
def test_what_can_never_be_sent(payload: bytes, reason: str) -> None:
    """What is malformed or too large is refused, and the reason says which."""
    kept = envelope(payload, received_at_ms=1, source="webhook")
    with pytest.raises(Unmappable, match=reason):
        _mapper().map(Lease(sequence=1, attempt=1, first_failed_at_ms=None, progress=b"", envelope=kept))


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        pytest.param({"sent": 1_767_228_324_560, "enqueued": 1_767_228_999_999}, "2026-01-01T00:45:24.560", id="own"),
        pytest.param({"sent": 0, "providers": [{"sent": 1_767_228_324_560}]}, "2026-01-01T00:45:24.560", id="provider"),
        pytest.param(
            {"timestamp": "2026-01-01T00:00:01Z", "enqueued": 1_767_228_324_560}, "2026-01-01T00:00:01", id="stated"
        ),
        pytest.param(
            {"status": "ROUTED", "enqueued": 1_767_228_324_560, "providers": [{"sent": 1_767_228_324_561}]},
            "2026-01-01T00:45:24.561",
            id="the newest there is",
        ),
        pytest.param({"sent": "garbage", "enqueued": -1}, "2026-11-24T22:00:00", id="receipt"),
    ],
)
def test_when_a_message_happened(fields: dict[str, Any], time: str) -> None:
    """A message's time is the status' own, and the receipt's only when there is no other."""
    assert _sent(_message(**fields))["timestamp"].startswith(time)


@pytest.mark.parametrize(
    ("data", "time"),
    [
        ({"id": "t", "published_at": 1_767_263_463_095, "submission_id": 1_767_263_403_095}, "2026-01-01T10:31:03.095"),
        ({"id": "t", "canceled_at": 1_767_263_413_095, "submission_id": 1_767_263_403_095}, "2026-01-01T10:30:13.095"),
        ({"id": "t", "submission_id": 1_767_263_403_095}, "2026-01-01T10:30:03.095"),
    ],
)
def test_when_a_template_changed(data: dict[str, Any], time: str) -> None:
    """A template's event has the time of what happened last to it."""
    assert _sent(data, kind="notification:x")["timestamp"].startswith(time)


def test_an_internal_sender_may_state_the_time_beside_the_type() -> None:
    """A top-level timestamp counts where the data has none."""
    assert _sent({"audience_id": "a"}, kind="audiences:updated", timestamp=1_767_228_324_560)["timestamp"].startswith(
        "2026-01-01T00:45:24.560"
    )


def _ids(call: dict[str, Any]) -> tuple[str | None, str | None]:
    return call["userId"], call["anonymousId"]


def test_an_address_is_never_an_id() -> None:
    """Whoever is known by an address alone is anonymous, the same at each message, and the address is a trait."""
    one = _sent(_message(recipient="Maya@example.com"))
    two = _sent(_message(id="1-6955c3a2-000000000000000000000000", recipientId="maya@example.com", recipient=None))
    assert one["userId"] is two["userId"] is None
    assert one["anonymousId"] == two["anonymousId"]
    assert "maya" not in one["anonymousId"].lower()
    assert one["context"]["traits"] == {"email": "Maya@example.com"}


def test_an_address_beside_an_id_is_a_trait() -> None:
    """The id wins whichever field it stands in, and both kinds of address are kept."""
    assert _ids(_sent(_message(recipientId="usr_2", recipient="maya@example.com"))) == ("usr_2", None)
    assert _ids(_sent(_message(recipientId="maya@example.com", recipient="usr_2"))) == ("usr_2", None)
    both = _sent(_message(recipientId="maya@example.com", recipient="+1 202 555 0142"))
    assert both["context"]["traits"] == {"email": "maya@example.com", "phone": "+12025550142"}


def test_a_telephone_number_makes_an_anonymous_id() -> None:
    """Two ways of writing one number are one person."""
    one, two = _sent(_message(recipient="+12025550142")), _sent(_message(recipient="+1 (202) 555-0142"))
    assert _ids(one) == _ids(two)
    assert one["userId"] is None


def test_nobody_is_told_apart_by_what_the_event_is_about() -> None:
    """Without a user the events of one message share an anonymous id, and those of two do not."""
    sent, opened = _sent({"id": "1-a", "status": "SENT"}), _sent({"id": "1-a", "status": "OPENED"})
    other = _sent({"id": "1-b", "status": "SENT"})
    assert _ids(sent) == _ids(opened) != _ids(other)
    assert _sent({"status": "SENT", "x": 1})["anonymousId"] != _sent({"status": "SENT", "x": 2})["anonymousId"]


@pytest.mark.parametrize("field", ["user_id", "recipientId", "recipient"])
def test_unknown_types_may_have_a_user(field: str) -> None:
    """A type that is not known yet has its user in any of Courier's words."""
    assert _sent({field: "usr_3"}, kind="journey:finished")["userId"] == "usr_3"


def test_the_user_of_an_audience_is_its_own_field() -> None:
    """Audience events go by `user_id`."""
    assert _sent({"user_id": 48_213_307}, kind="audiences:user:matched")["userId"] == "48213307"


def test_an_event_whose_ids_a_rule_removed_gets_one() -> None:
    """No event leaves without an id: the one it gets is made of the message."""
    call = _sent(_message(), rules='[[rule]]\nremove = ["userId"]')
    assert _ids(call) == _ids(_sent({"id": _message()["id"], "status": "SENT"}))


def test_a_rules_user_replaces_the_anonymous_id_beside_it() -> None:
    """Ids that rules set or hash are sent as the rules left them."""
    call = _sent(_message(), rules='salt = ""\n[[rule]]\nhash = ["userId"]')
    assert len(call["userId"]) == 64
    assert call["anonymousId"] is None
    both = _sent({"id": "1-a", "status": "SENT"}, rules='[[rule]]\nset = {"userId" = "u9"}')
    assert both["userId"] == "u9"


def test_no_rule_takes_our_mark_or_the_loop_breaker_away() -> None:
    """Whatever rules do, our own events can be told when they come back."""
    call = _sent(_message(), rules='[[rule]]\nset = {"context.app" = "x"}\nremove = ["properties.id"]')
    assert call["context"]["integration"] == {"name": "Courier"}
    assert call["integrations"] == {"All": True, "Courier": False, "COURIER": False}


def test_statuses_in_small_letters_are_the_same_statuses() -> None:
    """An internal sender may write a status as it likes."""
    assert _sent(_message(status="delivered", delivered=1_767_228_324_560))["event"] == "Message Delivered"


@pytest.mark.parametrize(
    ("body", "rules", "outcome", "reason"),
    [
        ({"type": "message:updated", "data": {"status": "ENQUEUED"}}, "", "filtered", "not among FORWARDER_EVENTS"),
        ({"type": "message:updated", "data": {"status": "SENT"}}, "[[rule]]\nfilter = true", "filtered", "rule 1"),
        ({"type": "message:updated"}, "", "dead", "`data` is missing or not an object"),
    ],
)
def test_a_dry_run_says_why_nothing_is_sent(body: dict[str, Any], rules: str, outcome: str, reason: str) -> None:
    """What is not sent is explained."""
    explanation = _explained(_mapper(events="native", rules=rules), json.dumps(body).encode(), at_ms=1)
    assert explanation == {"outcome": outcome, "reason": reason}


def test_a_dry_run_shows_what_would_be_sent() -> None:
    """What a dry run tells holds the whole call."""
    payload = json.dumps({"type": "message:updated", "data": _message()}).encode()
    shown = _explained(_mapper(), payload)
    assert shown["outcome"] == "sent"
    assert shown["call"]["properties"] == _message()


@pytest.mark.parametrize("channel", ["x", ["email"], {"key": ["a"]}, {"name": 7}])
def test_odd_channels_break_nothing(channel: Any) -> None:
    """Whatever stands where a channel should, the event keeps Courier's name and leaves."""
    payload = json.dumps({"type": "message:updated", "data": _message(providers=[{"channel": channel}])}).encode()
    call = _explained(_mapper(preset="channel"), payload)["call"]
    assert call["event"] == "Message Sent"


@pytest.mark.parametrize("preset", ["courier", "channel"])
def test_nothing_of_a_foreign_status_stays_in_memory(preset: Preset) -> None:
    """The status of what is no message is as long as its sender likes, and names nothing."""
    mapper = _mapper(preset=preset)
    tracemalloc.start()
    try:
        for number in range(50):
            data = {"id": "1", "status": f"{number}" * 100_000}
            payload = json.dumps({"type": "audiences:updated", "data": data}).encode()
            assert _explained(mapper, payload)["outcome"] == "sent"
        del data, payload
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
