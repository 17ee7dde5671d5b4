"""When a stored event happened, by its own words."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.mapping.event_time import stated_time_ms

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
    assert stated_time_ms(json.dumps(body).encode()) == stated_ms


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_no_payload_breaks_it(payload: bytes) -> None:
    """Whatever was stored, the answer is a time or None."""
    stated_ms = stated_time_ms(payload)
    assert stated_ms is None or stated_ms > 0
