"""Event keys, labels and recurrences of what Courier posts."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.wire import digest, digest_of_bytes, envelope, usual
from forwarder.model import Envelope, Labels, Recurrence, RouteName

_VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "courier_webhooks.json").read_text())
_BODIES: dict[str, Any] = {case["name"]: case["body"] for case in _VECTORS}

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_known_fields = ("id", "status", "sent", "providers", "recipient", "recipientId", "user_id", "audience_id", "timestamp")
_known_types = ("message:updated", "audiences:user:matched", "audiences:calculated", "notification:published", "x:y")
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(_known_types) | _values,
        "data": st.dictionaries(st.sampled_from(_known_fields), _values) | _values,
        "id": _values,
    },
)


def _wrap(body: Any, *, source: str = "webhook") -> Envelope:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return envelope(payload, received_at_ms=1_767_225_600_000, source=source)


def _message(**fields: Any) -> dict[str, Any]:
    data = {"id": "1-6955c3a2-243dac7046444e2fec3a4a30", "status": "SENT", "sent": 1_767_228_324_560, **fields}
    return {"type": "message:updated", "data": data}


def test_all_samples_are_different_events() -> None:
    """No two of the sample webhooks share a key."""
    assert len({_wrap(body).event_key for body in _BODIES.values()}) == len(_BODIES)


def test_a_resend_has_the_key_of_the_first_copy() -> None:
    """The same event has the same key whenever it comes and however its JSON is spaced or ordered, in every sample."""

    def resent(body: Any) -> bytes:
        reordered = json.dumps(body, sort_keys=True, indent=2).encode()
        return envelope(reordered, received_at_ms=1_767_999_999_999, source="webhook").event_key

    assert [name for name, body in _BODIES.items() if resent(body) != _wrap(body).event_key] == []


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"id": "1-6955c3a2-000000000000000000000000"}, id="another message"),
        pytest.param({"status": "DELIVERED"}, id="another status"),
        pytest.param({"sent": 1_767_228_324_561}, id="the status' own time"),
        pytest.param({"providers": [{"provider": "twilio", "status": "SENT"}]}, id="another provider"),
        pytest.param({"providers": [{"channel": {"key": "sms"}, "status": "SENT"}]}, id="a channel without provider"),
        pytest.param({"providers": {"provider": "twilio"}}, id="providers of another kind"),
        pytest.param({"providers": ["twilio"]}, id="a provider that is a word"),
        pytest.param({"id": 7}, id="a number for an id"),
        pytest.param({"id": "7"}, id="the same number as text"),
        pytest.param({"id": None}, id="no id"),
    ],
)
def test_what_tells_two_statuses_apart(changed: dict[str, Any]) -> None:
    """Each part of a message's key makes another event of it."""
    assert _wrap(_message(**changed)).event_key != _wrap(_message()).event_key


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"enqueued": 1}, id="a time of another status"),
        pytest.param({"recipient": "usr_1"}, id="the recipient"),
        pytest.param({"providers": None}, id="null for no providers"),
        pytest.param({"clicked": 5, "metadata": {"a": 1}}, id="unknown fields"),
    ],
)
def test_what_does_not_tell_two_statuses_apart(changed: dict[str, Any]) -> None:
    """A field that is no part of a message's key changes nothing, and providers absent are providers empty."""
    plain = _message(providers=[])
    assert _wrap(_message(**{"providers": [], **changed})).event_key == _wrap(plain).event_key


def test_providers_are_a_set() -> None:
    """Neither the order of the providers nor a repeated one makes another event."""
    mail, text = {"provider": "sendgrid", "status": "SENT"}, {"provider": "twilio", "status": "SENT"}
    keys = {
        _wrap(_message(providers=providers)).event_key for providers in ([mail, text], [text, mail], [text, mail, mail])
    }
    assert len(keys) == 1


def test_two_channels_with_one_status_are_two_events() -> None:
    """A second provider that reports the same status at the same time is not taken for a resend."""
    mail, text = {"provider": "sendgrid", "status": "SENT"}, {"provider": "twilio", "status": "SENT"}
    assert _wrap(_message(providers=[mail])).event_key != _wrap(_message(providers=[mail, text])).event_key


@pytest.mark.parametrize("kind", ["notification:published", "audiences:updated", "workspace:renamed"])
def test_what_has_no_id_of_its_own_is_told_by_its_data(kind: str) -> None:
    """Template, audience and unknown events differ by type and by anything in their data, big integers included."""
    keys = {
        _wrap({"type": kind, "data": {"id": "a", "at": 18_446_744_073_709_551_617}}).event_key,
        _wrap({"type": kind, "data": {"id": "a", "at": 18_446_744_073_709_551_618}}).event_key,
        _wrap({"type": kind + "x", "data": {"id": "a", "at": 18_446_744_073_709_551_617}}).event_key,
    }
    assert len(keys) == 3


def _audience(kind: str, **fields: Any) -> Envelope:
    return _wrap({"type": kind, "data": {"audience_id": "vip", "audience_version": 3, "user_id": "u1", **fields}})


def test_audience_events_may_recur() -> None:
    """Matched and unmatched of one user and audience share a subject and are its two sides."""
    matched, unmatched = _audience("audiences:user:matched"), _audience("audiences:user:unmatched", reason="x")
    assert matched.recurrence is not None
    assert unmatched.recurrence is not None
    assert matched.recurrence.subject == unmatched.recurrence.subject
    assert (matched.recurrence.side, unmatched.recurrence.side) == (
        "audiences:user:matched",
        "audiences:user:unmatched",
    )
    assert (matched.recurrence.resend_s, matched.recurrence.resend_max_s) == (1_200, 93_600)


@pytest.mark.parametrize("other", [{"user_id": "u2"}, {"audience_id": "all"}, {"user_id": 1}])
def test_other_users_and_audiences_are_other_subjects(other: dict[str, Any]) -> None:
    """One user's leaving one audience says nothing of another's, or of another audience."""
    one, two = _audience("audiences:user:matched").recurrence, _audience("audiences:user:matched", **other).recurrence
    assert one is not None
    assert two is not None
    assert one.subject != two.subject


@pytest.mark.parametrize(
    "event",
    [
        pytest.param({"type": "audiences:calculated", "data": {"audience_id": "vip"}}, id="a calculation"),
        pytest.param({"type": "audiences:user:matched", "data": {"audience_id": "vip"}}, id="a match of nobody"),
    ],
)
def test_what_has_no_opposite_is_a_resend_for_a_short_time_only(event: dict[str, Any]) -> None:
    """Without an opposite event there is no subject."""
    recurrence = _wrap(event).recurrence
    assert isinstance(recurrence, Recurrence)
    assert recurrence.subject is None


@pytest.mark.parametrize("kind", ["message:updated", "notification:published", "audiences:updated", "a:b"])
def test_everything_else_does_not_recur(kind: str) -> None:
    """Only audience events that carry neither id nor time are judged by when they come."""
    assert _wrap({"type": kind, "data": {"id": "a", "status": "SENT"}}).recurrence is None


def test_a_senders_own_id_makes_the_key_of_an_internal_event() -> None:
    """From `/events`, id, type and status are the event, whatever else changes; on the webhook they are not."""
    one = {**_message(), "id": "evt-1"}
    two = {**_message(sent=2, recipient="usr_9"), "id": "evt-1"}
    assert _wrap(one, source="events").event_key == _wrap(two, source="events").event_key
    assert _wrap(one).event_key != _wrap(two).event_key
    assert _wrap(one, source="events").event_key != _wrap({**one, "id": "evt-2"}, source="events").event_key
    assert (
        _wrap(one, source="events").event_key
        != _wrap({**_message(status="X"), "id": "evt-1"}, source="events").event_key
    )


@pytest.mark.parametrize("own", [None, "", True, {}, []])
def test_an_internal_event_without_an_id_is_told_as_the_webhook_is(own: Any) -> None:
    """What cannot be an id counts as none."""
    assert _wrap({**_message(), "id": own}, source="events").event_key == _wrap(_message()).event_key


def test_an_own_id_settles_whether_an_audience_event_recurs() -> None:
    """Who gives an audience event an id decides himself what a resend is."""
    body = {"type": "audiences:user:matched", "id": "e1", "data": {"audience_id": "vip", "user_id": "u1"}}
    assert _wrap(body, source="events").recurrence is None


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        pytest.param(
            "sent_email_sendgrid",
            Labels(
                type="message:updated",
                event="Message Sent",
                message_id="1-6955c1c2-1aba9df703553329b3a3ee48",
                user_id="usr_7f3a91c2",
            ),
            id="message",
        ),
        pytest.param(
            "audiences_user_matched",
            Labels(type="audiences:user:matched", event="Audience User Matched", user_id="usr_7f3a91c2"),
            id="audience",
        ),
        pytest.param(
            "unknown_type",
            Labels(type="workspace:renamed", event="workspace:renamed", message_id="ws_2b84b0cf"),
            id="unknown type",
        ),
        pytest.param("empty_object", Labels(), id="nothing"),
        pytest.param("data_null", Labels(type="message:updated", event="message:updated"), id="no data"),
    ],
)
def test_labels_are_what_people_look_an_event_up_by(name: str, labels: Labels) -> None:
    """Type, name, message and user are found where Courier puts them."""
    assert _wrap(_BODIES[name]).labels == labels


def test_a_label_is_cut() -> None:
    """A label never passes 256 characters, and a number becomes text."""
    labels = _wrap({"type": "t" * 300, "data": {"id": "i" * 300, "recipient": 48_213_307}}).labels
    assert (len(labels.type), len(labels.event), len(labels.message_id), labels.user_id) == (256, 256, 256, "48213307")


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"not json", id="no JSON"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": 1e999}', id="beyond a double"),
        pytest.param(b'{"type":"t","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="very deep"),
        pytest.param(b'{"a":' * 100_000, id="very deep and cut off"),
        pytest.param(b"9" * 10_000, id="a very long number"),
    ],
)
def test_what_cannot_be_understood_is_kept_all_the_same(payload: bytes) -> None:
    """Bytes that are no event become an envelope without labels, told by their hash."""
    kept = _wrap(payload)
    assert (kept.payload, kept.labels, kept.recurrence) == (payload, Labels(), None)
    assert kept.event_key == _wrap(payload).event_key != _wrap(payload + b" ").event_key


def test_depth_at_the_decoders_edge_never_raises() -> None:
    """However deep an event is nested, it is taken."""
    for depth in range(900, 1_100, 7):
        kept = _wrap(b'{"type":"a:b","data":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}")
        assert len(kept.event_key) == 16


def test_the_envelope_is_the_outbound_routes() -> None:
    """Route, source, receipt and bytes are as given, and no order is asked for."""
    payload = json.dumps(_message()).encode()
    kept = envelope(payload, received_at_ms=5, source="webhook")
    assert (kept.route, kept.source, kept.received_at_ms) == (RouteName.COURIER_TO_RUDDERSTACK, "webhook", 5)
    assert (kept.payload, kept.partition_key) == (payload, "")


@settings(max_examples=200, deadline=None)
@given(body=_bodies, source=st.sampled_from(["webhook", "events"]))
def test_any_object_is_taken(body: dict[str, Any], source: str) -> None:
    """Whatever stands in an object, it gets a key of 16 bytes that the order of its names does not change."""
    first = _wrap(body, source=source)
    again = envelope(msgspec.json.encode(body, order="sorted"), received_at_ms=0, source=source)
    assert len(first.event_key) == 16
    assert first.event_key == again.event_key


@settings(max_examples=200, deadline=None)
@given(one=st.lists(_values, max_size=3), two=st.lists(_values, max_size=3))
def test_different_parts_have_different_digests(one: list[Any], two: list[Any]) -> None:
    """Two digests are equal exactly when their parts are, however the parts might run together."""
    is_same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(two, order="sorted")
    assert (digest(*one) == digest(*two)) is is_same


def test_parts_do_not_run_together() -> None:
    """Moving a character from one part to the next, or changing a part's kind, gives another digest."""
    digests = [digest("ab", "c"), digest("a", "bc"), digest("abc"), digest("1"), digest(1), digest(1.0), digest(None)]
    assert len(set(digests)) == len(digests)
    assert digest_of_bytes(b'["abc"]') != digest("abc")


_ANY = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=2), max_size=1)
_ENTRIES = st.fixed_dictionaries(
    {}, optional={"provider": _ANY, "status": _ANY, "channel": st.just({"key": "email:x"}), "sent": st.integers()}
)
_MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["message:updated", "message:updated ", "notification:submitted"])},
    optional={
        "id": _ANY,
        "data": st.fixed_dictionaries(
            {"id": st.text(max_size=3), "status": st.sampled_from(["SENT", "opened", "", "ODD", 7])},
            optional={
                "providers": st.lists(_ENTRIES, max_size=3) | _ANY,
                "sent": _ANY,
                "opened": _ANY,
                "timestamp": _ANY,
                "recipient": _ANY,
                "recipientId": _ANY,
                "user_id": _ANY,
                "other": _ANY,
            },
        )
        | _ANY,
    },
)


@settings(max_examples=300, deadline=None)
@given(body=_MESSAGES, source=st.sampled_from(["webhook", "events"]), in_ascii=st.booleans())
def test_the_usual_message_is_wrapped_as_any_other(body: dict[str, Any], source: str, *, in_ascii: bool) -> None:
    """What is decoded in part has the key and the labels that it has when it is decoded whole."""
    payload = json.dumps(body, ensure_ascii=in_ascii).encode("utf-8", "replace")
    quick = envelope(payload, received_at_ms=1, source=source)
    whole = envelope(b"\xef\xbb\xbf" + payload, received_at_ms=1, source=source)  # only the whole reading takes a BOM
    assert (quick.event_key, quick.labels, quick.recurrence) == (whole.event_key, whole.labels, whole.recurrence)


def test_what_is_nested_too_deeply_is_not_usual() -> None:
    """Skipping what is not decoded recurses as well: such an event goes the long way, where its depth is judged."""
    deep = b'{"type":"message:updated","data":{"id":"m","status":"SENT","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert usual(deep, received_at_ms=1, source="events") is None
