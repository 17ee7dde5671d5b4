"""The outbound mapping as a value: what it names, and that it makes again what was sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from forwarder.archive_port import EventDetail, EventRow
from forwarder.courier.wire import envelope
from forwarder.errors import RulesInvalid
from forwarder.mapping.outbound import OutboundMapping
from forwarder.model import Envelope, Lease, State
from forwarder.operator.explain import explainer

_CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "courier_webhooks.json").read_text())
_RULES = '[[rule]]\nset."properties.checked" = true\n'
_MAPPING = OutboundMapping(version="9", event_names="channel", events=("all",), rules=_RULES)


def test_each_part_of_it_is_in_its_mark() -> None:
    """Mappings that may make different things of an event have different marks; equal ones the same."""
    others = (
        replace(_MAPPING, version="8"),
        replace(_MAPPING, event_names="courier"),
        replace(_MAPPING, events=("SENT",)),
        replace(_MAPPING, rules=f"{_RULES}# a remark\n"),
    )
    assert len({one.mark for one in (_MAPPING, *others)}) == 1 + len(others)
    assert replace(_MAPPING).mark == _MAPPING.mark


def test_wrong_rules_name_their_file() -> None:
    """An error says in which file it is."""
    with pytest.raises(RulesInvalid, match=r"^my\.toml"):
        replace(_MAPPING, rules="[[rule]]\nnonsense = 1\n").mapper(file="my.toml")


def test_what_was_sent_is_made_again_byte_for_byte() -> None:
    """For every sample webhook: what a route sent is what the value, read back from disk, makes of the stored event."""
    taken = [envelope(json.dumps(case["body"]).encode(), received_at_ms=5, source="webhook") for case in _CASES]
    leases = [
        Lease(sequence=number, attempt=3, first_failed_at_ms=1, envelope=one) for number, one in enumerate(taken, 1)
    ]
    again = explainer(_MAPPING.mapper())
    compared = 0
    for lease, mapped in zip(leases, _MAPPING.mapper().map_batch(leases), strict=True):
        if not isinstance(mapped, tuple):
            continue
        explained = again(_stored(lease.sequence, lease.envelope))
        assert [one.body for one in explained.deliveries] == [one.body for one in mapped]
        compared += 1
    assert compared > len(_CASES) // 2


def _stored(sequence: int, one: Envelope) -> EventDetail:
    row = EventRow(
        sequence=sequence,
        route=one.route,
        state=State.DELIVERED,
        labels=one.labels,
        source=one.source,
        received_at_ms=one.received_at_ms,
        settled_at_ms=9,
        attempts=1,
        reason="",
        not_before_ms=None,
        is_discarded=False,
        size_bytes=len(one.payload),
    )
    return EventDetail(row=row, event_key=one.event_key, payload=one.payload, progress=b"", attempts=())
