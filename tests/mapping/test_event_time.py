"""When a stored event happened, by its own words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.mapping.event_time import stated

SENT_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("body", "stated_ms"),
    [
        ({"type": "message:updated", "data": {"status": "SENT", "sent": SENT_MS}}, SENT_MS),
        ({"type": "message:updated", "data": {"status": "SENT", "sent": SENT_MS, "enqueued": 5}}, SENT_MS),
        ({"type": "message:updated", "data": {"status": "SENT"}}, None),
        ({"type": "audiences:updated", "data": {}}, None),
        ({"type": "message:updated"}, None),
        ([], None),
    ],
    ids=["its status' time", "not another's", "no time", "a type without times", "no data", "no object"],
)
def test_an_event_states_its_time_or_none(body: object, stated_ms: int | None) -> None:
    """The status' own time is told; what states none, or is no event at all, is None."""
    said = stated(json.dumps(body).encode())
    assert (said.at_ms if said else None) == stated_ms


def test_an_event_states_how_its_message_fares() -> None:
    """Status, channel, provider, template and reason are told as Courier has them; what is no text is left out."""
    entry = {"channel": {"key": "email:sendgrid"}, "provider": "sendgrid", "status": "UNDELIVERABLE", "reason": 5}
    data = {"status": "undeliverable", "notification": "T1", "reason": "BOUNCED", "providers": [entry]}
    said = stated(json.dumps({"type": "message:updated", "data": data}).encode())
    assert said is not None
    assert (said.status, said.channel, said.provider) == ("Undeliverable", "email", "sendgrid")
    assert (said.template, said.reason) == ("T1", "BOUNCED")
    said = stated(json.dumps({"type": "message:updated", "data": {"notification": [], "providers": [entry]}}).encode())
    assert said is not None
    assert (said.status, said.template, said.reason) == ("", "", "")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_no_payload_breaks_it(payload: bytes) -> None:
    """Whatever was stored, the answer is a time or None."""
    said = stated(payload)
    assert said is None or said.at_ms is None or said.at_ms > 0
