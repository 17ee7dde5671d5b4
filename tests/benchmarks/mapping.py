"""CPU of one event from its stored bytes to its bytes in a batch: our mapping, and rudder-sdk-python's own.

Both decode the same webhook and end with the call's JSON. It stands alone and prints one JSON object: microseconds per
event, one figure per round, the two in turns so that a busy machine hurts both alike.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from rudderstack.analytics import Client

from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import EventSelection
from forwarder.model import Envelope, Lease, RouteName
from forwarder.rudderstack.calls import TrackCalls

_VECTORS = Path(__file__).parents[1] / "vectors" / "courier_webhooks.json"
_ROUNDS = 5
_EVENTS = 5_000


def payload() -> bytes:
    """Return the body of an ordinary webhook."""
    (body,) = (
        case["body"] for case in orjson.loads(_VECTORS.read_bytes()) if case["name"] == "delivered_email_sendgrid"
    )
    return orjson.dumps(body)


def microseconds(act: Callable[[], object]) -> float:
    """Return the CPU time of one call, over many."""
    started_ns = time.process_time_ns()
    for _ in range(_EVENTS):
        act()
    return (time.process_time_ns() - started_ns) / _EVENTS / 1_000


def main() -> None:
    """Measure in turns and print."""
    stored = payload()
    mapper = CourierToRudderStack(
        TrackCalls(version="0"), preset="courier", selection=EventSelection.of(("native",)), rules=Rules.parse("")
    )
    envelope = Envelope(
        route=RouteName.COURIER_TO_RUDDERSTACK, event_key=bytes(16), partition_key="", received_at_ms=0, payload=stored
    )
    lease = Lease(sequence=1, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)
    client = Client("key", host="http://127.0.0.1", send=False)

    def with_sdk() -> bytes:
        data = json.loads(stored)["data"]
        _, message = client.track(data["recipientId"], "Message Delivered", properties=data, message_id=data["id"])
        return json.dumps(message).encode()

    figures: dict[str, list[float]] = {"ours": [], "rudder-sdk-python": []}
    for _ in range(_ROUNDS):
        figures["ours"].append(microseconds(lambda: mapper.map(lease)))
        figures["rudder-sdk-python"].append(microseconds(with_sdk))
    print(json.dumps(figures))  # noqa: T201 - this is its result


if __name__ == "__main__":
    main()
