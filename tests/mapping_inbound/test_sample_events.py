"""Every sample event of RudderStack and Segment gives exactly the calls that are written down beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.rudderstack.wire import with_type

_FOLDER = Path(__file__).parent
_CASES = json.loads((_FOLDER.parent / "vectors" / "rudderstack_events.json").read_text())
_EXPECTED = json.loads((_FOLDER / "expected_calls.json").read_text())

_SOURCES = {
    "courier_destination": "rudderstack",
    "webhook_destination": "rudderstack",
    "http_webhook_array": "rudderstack",
    "v1_batch": "v1",
    "v1_single": "v1",
    "segment_action": "segment",
}


def _events(case: dict[str, Any]) -> list[bytes]:
    """Return the case's events as the endpoint stores them; what is no object is refused there."""
    body = case["body"]
    if case["transport"] == "v1_batch":
        body = body.get("batch", [])
    events = [event for event in (body if isinstance(body, list) else [body]) if isinstance(event, dict)]
    payloads = [json.dumps(event, ensure_ascii=False).encode() for event in events]
    if case["transport"] != "v1_single":
        return payloads
    kind = case["note"].removeprefix("POST /v1/").replace(",", " ").replace(":", " ").split()[0].rstrip(".")
    return [with_type(event, payload, kind)[1] for event, payload in zip(events, payloads, strict=True)]


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["name"])
def test_a_sample_event_becomes_the_documented_calls(
    case: dict[str, Any], mapper: RudderstackToCourier, lease_of: Any, outcome: Any
) -> None:
    """An event becomes the calls that Courier documents for it, in order, or ends in the state it must."""
    source = _SOURCES[case["transport"]]
    assert [outcome(mapper, lease_of(event, source=source)) for event in _events(case)] == _EXPECTED[case["name"]]


def test_every_loop_ends_filtered_and_the_lookalike_does_not() -> None:
    """What comes back from Courier is filtered; a customer's own event of the same name is not."""
    for name, outcomes in _EXPECTED.items():
        if "loop" in name:
            assert all(("filtered" in found) == ("lookalike" not in name) for found in outcomes), name


def test_no_expectation_is_left_over() -> None:
    """The expectations speak of the sample events and of nothing else."""
    assert set(_EXPECTED) == {case["name"] for case in _CASES}
