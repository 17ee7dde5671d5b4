"""Every sample webhook, by both sets of names, against an outcome that was checked by hand.

`python tests/mapping/test_courier_webhooks.py` writes the expected outcomes anew; what changes in
them is a change for every user and belongs into the changelog.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from forwarder.courier.wire import envelope
from forwarder.errors import Unmappable
from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack, Preset
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import EventSelection
from forwarder.model import Delivery, Filtered, Lease
from forwarder.rudderstack.calls import TrackCalls

_HERE = Path(__file__).parent
_EXPECTED_FILE = _HERE / "courier_webhooks_expected.json"
_CASES: list[dict[str, Any]] = json.loads((_HERE.parent / "vectors" / "courier_webhooks.json").read_text())
_EXPECTED: dict[str, Any] = json.loads(_EXPECTED_FILE.read_text()) if _EXPECTED_FILE.exists() else {}
_RECEIVED_AT_MS = 1_795_557_600_000
_CALLS = TrackCalls(version="1.2.3")


def _lease(body: Any) -> Lease:
    payload = json.dumps(body).encode()
    kept = envelope(payload, received_at_ms=_RECEIVED_AT_MS, source="webhook")
    return Lease(sequence=7, attempt=1, first_failed_at_ms=None, progress=b"", envelope=kept)


def _outcome(body: Any, preset: Preset, events: str) -> dict[str, Any]:
    mapper = CourierToRudderStack(_CALLS, preset=preset, selection=EventSelection.of([events]), rules=Rules())
    try:
        mapped = mapper.map(_lease(body))
    except Unmappable as error:
        return {"dead": str(error)}
    if isinstance(mapped, Filtered):
        return {"filtered": mapped.reason}
    (delivery,) = mapped
    assert isinstance(delivery, Delivery)
    assert (delivery.sequence, delivery.operation) == (7, "track")
    call: dict[str, Any] = json.loads(delivery.body)
    return {"sent": call}


def _expectation(body: Any) -> dict[str, Any]:
    """Return all that the expected file holds of one case: what varies, nothing that is the same in all."""
    outcome = _outcome(body, "courier", "all")
    if "sent" not in outcome:
        return outcome
    native, channel = outcome["sent"], _outcome(body, "channel", "all")["sent"]
    context = {name: value for name, value in channel["context"].items() if name not in ("integration", "library")}
    return {
        "is_native": "sent" in _outcome(body, "courier", "native"),
        "event": native["event"],
        "event_on_channel": channel["event"],
        **{name: native[name] for name in ("userId", "anonymousId", "timestamp", "messageId")},
        "context_on_channel": context,
        "properties_on_channel": channel["properties"],
    }


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["name"])
def test_every_sample_ends_as_expected(case: dict[str, Any]) -> None:
    """Each sample webhook is sent, filtered or dead exactly as the checked file says, by either set of names.

    By Courier's names the properties are the webhook's data verbatim, and the rest is what every call has.
    """
    assert _expectation(case["body"]) == _EXPECTED[case["name"]]
    outcome = _outcome(case["body"], "courier", "all")
    if "sent" not in outcome:
        return
    call = outcome["sent"]
    assert call["properties"] == case["body"]["data"]
    assert call["type"] == "track"
    assert call["integrations"] == {"All": True, "Courier": False, "COURIER": False}
    assert call["context"]["library"] == {"name": "forwarder", "version": "1.2.3"}
    assert call["context"]["integration"] == {"name": "Courier"}
    assert (call["userId"] is None) != (call["anonymousId"] is None)


def test_no_two_samples_share_a_message_id() -> None:
    """Distinct events keep distinct messageIds, printable and ASCII."""
    ids = [expected["messageId"] for expected in _EXPECTED.values() if "messageId" in expected]
    assert len(set(ids)) == len(ids)
    assert all(message_id.isascii() and message_id.isprintable() for message_id in ids)


def test_the_native_eight_are_couriers_own() -> None:
    """What goes out unasked is named exactly as Courier's own integration names it."""
    native = {expected["event"] for expected in _EXPECTED.values() if expected.get("is_native")}
    assert native == {
        *("Message Sent", "Message Delivered", "Message Opened", "Message Clicked", "Message Undeliverable"),
        *("Message Unroutable", "Audience User Matched", "Audience User Unmatched"),
    }


if __name__ == "__main__":
    _EXPECTED_FILE.write_text(
        json.dumps({case["name"]: _expectation(case["body"]) for case in _CASES}, indent=1, ensure_ascii=False) + "\n",
    )
