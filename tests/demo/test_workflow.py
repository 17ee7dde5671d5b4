"""The stream of workflow events is repeatable, has the documented shapes and knows what must become of it."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.demo.signing import signed
from forwarder.demo.workflow import NATIVE_NAMES, Workflow, WorkflowEvent, seen
from stand_ins.load import workflow_events

NOW_MS = 1_767_225_600_000


def test_the_signature_is_couriers() -> None:
    """The documented example's signature comes out, computed by others."""
    body = (
        b'{"data":{"enqueued":1631833955972,"event":"SNKDF4GZK94M0NHXBJQDF8GAQWM1",'
        b'"id":"1-6143cf63-4f27670f6304f465462695f2","providers":[],"recipient":"c156665c-a76c-4440-9676-f25c1b04ba93",'
        b'"recipientId":"c156665c-a76c-4440-9676-f25c1b04ba93","status":"ENQUEUED"},"type":"message:updated"}'
    )

    headers = signed(body, "test-secret", 1_631_816_343_012)

    expected = "4666c69a09e96defc8ffd4d8e31e8ae2e4f47c3e501fcf34f695b598042bb604"
    assert headers["courier-signature"] == f"t=1631816343012,signature={expected}"


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_stream_and_no_event_twice(seed: int) -> None:
    """A stream can be repeated, and all its events are distinct."""
    one = list(workflow_events(Workflow(seed=seed), 60, now_ms=NOW_MS))
    other = list(workflow_events(Workflow(seed=seed), 60, now_ms=NOW_MS))

    assert one == other
    assert len({event.facts.key for event in one}) == len(one) == 60


def test_a_stream_holds_every_channel_status_and_kind() -> None:
    """Nothing that Courier documents for these channels is missing from a long stream."""
    events = list(workflow_events(Workflow(seed=1), 3000, now_ms=NOW_MS))
    datas = [json.loads(event.body)["data"] for event in events]

    assert {event.status for event in events} == {"", "ENQUEUED", *NATIVE_NAMES}
    assert {data["reason"] for data in datas if data.get("status") == "UNDELIVERABLE"} == {"BOUNCED", "UNSUBSCRIBED"}
    providers = {entry.get("provider") for data in datas for entry in data.get("providers", [])}
    assert providers == {"sendgrid", "firebase-fcm", "twilio", "courier", "slack", None}
    assert {event.type for event in events} == {"message:updated", "audiences:user:matched", "audiences:user:unmatched"}
    assert Counter("recipientId" in data for data in datas if "id" in data)[True] > 1000


def test_times_accumulate_and_the_facts_name_the_status_own_time() -> None:
    """Each status adds its time and keeps the earlier ones; user and time follow the documented rules."""
    lives = [Workflow(seed=seed, pace=0.1).message(NOW_MS) for seed in range(40)]
    life = next(life for life in lives if life[-1].status == "CLICKED" and len(life) == 5)
    data = json.loads(life[-1].body)["data"]

    assert data["enqueued"] < data["sent"] < data["delivered"] < data["opened"] < data["clicked"]
    assert [event.facts.at_ms for event in life] == [
        data[name] for name in ("enqueued", "sent", "delivered", "opened", "clicked")
    ]
    assert {event.facts.user for event in life} == {data.get("recipientId", data["recipient"])}
    assert life[0].facts.name is None


def test_what_the_data_plane_stored_is_read_back() -> None:
    """`seen` finds the event by its properties and reads what the ledger compares."""
    message, audience = _message(), Workflow(seed=1).audience(NOW_MS)
    for event in (message, audience):
        stored = {
            "event": event.facts.name,
            "userId": event.facts.user,
            "messageId": "m",
            "properties": json.loads(event.body)["data"],
            "timestamp": "2026-01-01T00:00:00.123Z",
        }
        sighting = seen(stored)
        assert (sighting.key, sighting.name, sighting.user) == (event.facts.key, event.facts.name, event.facts.user)
        assert sighting.at_ms == (NOW_MS + 123 if event is message else None)


def _message() -> WorkflowEvent:
    return Workflow(seed=2).message(NOW_MS)[1]
