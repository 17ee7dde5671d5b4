"""From a stored webhook event of Courier's to the one track call that RudderStack shall get. Pure.

Read, choose, name, identify, time, let the rules at it, encode: `map` below is the whole way. Nothing
is dropped: what is not sent is `Filtered` or `Unmappable`, with its reason.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from forwarder.courier import vocabulary
from forwarder.courier.event import CourierEvent, channel_of, event_name, read
from forwarder.errors import Unmappable
from forwarder.mapping.channel_names import channel_name, undeliverable
from forwarder.mapping.channel_properties import campaign_context, message_properties
from forwarder.mapping.event_time import event_time_ms
from forwarder.mapping.identity import USER_ID_TYPE, Identity, identity_of
from forwarder.mapping.mapped import MappedEvent
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import NOT_SELECTED, EventSelection
from forwarder.model import Delivery, Envelope, Filtered, Lease
from forwarder.nesting import TOO_DEEP, is_too_deep
from forwarder.rudderstack.calls import FORBIDDEN_KEY_NOTE, TrackCall, TrackCalls, without_forbidden_keys

Preset = Literal["courier", "channel"]

OPERATION = "track"
MESSAGE_ID_PREFIX = "courier-"

_GOOD_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?::[A-Za-z0-9_.-]+)*")
_GOOD_STATUS = re.compile(r"[A-Z][A-Z0-9_ -]*")
_WORD_CHARACTERS_MAX = 100


class CourierToRudderStack:
    """The mapper of the route `courier_to_rudderstack`; `ports.Mapper`."""

    def __init__(self, calls: TrackCalls, *, preset: Preset, selection: EventSelection, rules: Rules) -> None:
        """`preset` is FORWARDER_EVENT_NAMES, `selection` FORWARDER_EVENTS, `rules` FORWARDER_RULES."""
        self._calls = calls
        self._is_channel = preset == "channel"
        self._selection = selection
        self._rules = rules

    def map_batch(self, leases: Sequence[Lease]) -> list[tuple[Delivery, ...] | Filtered | Unmappable]:
        """Map each of them; what `map` raises stands in its place."""
        mapped: list[tuple[Delivery, ...] | Filtered | Unmappable] = []
        for lease in leases:
            try:
                mapped.append(self.map(lease))
            except Unmappable as error:
                mapped.append(error)
        return mapped

    def map(self, lease: Lease) -> tuple[Delivery, ...] | Filtered:
        """Return the one delivery, or why there is none; raises `Unmappable` for what is malformed."""
        delivery = self.delivery(lease.sequence, lease.envelope)
        return delivery if isinstance(delivery, Filtered) else (delivery,)

    def delivery(self, sequence: int, envelope: Envelope) -> Delivery | Filtered:
        """Return the track call, complete but for `sentAt`; else as `map`."""
        event = _good(read(envelope.payload))
        is_message = event.type == vocabulary.MESSAGE_UPDATED
        entry = event.deciding_provider() if is_message else {}
        native = event_name(event.type, event.status) if is_message else vocabulary.type_name(event.type)
        by_channel = _name_on_channel(event, entry) if self._is_channel or self._selection.words else ""
        if not self._selection.admits(kind=event.type, status=event.status, names=(native, by_channel)):
            return Filtered(reason=NOT_SELECTED)
        key = envelope.event_key.hex()
        mapped = self._mapped(event, entry, identity_of(event, fallback=key), native, by_channel)
        is_ruled = bool(self._rules.rules)
        ruled = self._rules.apply(mapped) if is_ruled else mapped
        if isinstance(ruled, Filtered):
            return ruled
        # Where nothing changed it, `data` is sent in the bytes that it came in.
        is_spliced = bool(event.raw) and not is_ruled and ruled.properties is event.data
        body = self._calls.encode(
            TrackCall(
                event=ruled.event,
                user_id=ruled.user_id or None,
                anonymous_id=ruled.anonymous_id or _anonymous_after_rules(ruled, event, key),
                message_id=MESSAGE_ID_PREFIX + key,
                timestamp_ms=event_time_ms(event, entry, received_at_ms=envelope.received_at_ms),
                properties=msgspec.Raw(event.raw) if is_spliced else ruled.properties,
                context=ruled.context,
            )
        )
        if is_ruled and is_too_deep(body):  # rules may have put one thing into another
            raise Unmappable(TOO_DEEP)
        if is_spliced:
            return Delivery(sequence=sequence, operation=OPERATION, body=body)
        harmless = without_forbidden_keys(body)
        note = FORBIDDEN_KEY_NOTE if harmless != body else ""
        return Delivery(sequence=sequence, operation=OPERATION, body=harmless, note=note)

    def _mapped(
        self,
        event: CourierEvent,
        entry: dict[str, Any],
        identity: Identity,
        native: str,
        by_channel: str,
    ) -> MappedEvent:
        context: dict[str, Any] = {}
        if traits := identity.traits:
            context["traits"] = traits
        properties = event.data
        if self._is_channel:
            if identity.user_id:
                context["externalId"] = [{"type": USER_ID_TYPE, "id": identity.user_id}]
            if campaign := campaign_context(event.data):
                context["campaign"] = campaign
            if event.type == vocabulary.MESSAGE_UPDATED:
                properties = message_properties(event, entry, channel=channel_of(entry))
        return MappedEvent(
            kind=event.type,
            data=event.data,
            event=(by_channel if self._is_channel else "") or native,
            user_id=identity.user_id,
            anonymous_id=identity.anonymous_id,
            properties=properties,
            context=context,
        )


def _good(event: CourierEvent) -> CourierEvent:
    if event.type == vocabulary.MESSAGE_UPDATED and event.status in vocabulary.MESSAGE_NAMES:
        return event
    if len(event.type) > _WORD_CHARACTERS_MAX or not _GOOD_TYPE.fullmatch(event.type):
        raise Unmappable("`type` is not of Courier's form")
    if event.type == vocabulary.MESSAGE_UPDATED:
        status = event.status
        if not status:
            raise Unmappable("`data.status` is missing or not a text")
        if status not in vocabulary.MESSAGE_NAMES and (
            len(status) > _WORD_CHARACTERS_MAX or not _GOOD_STATUS.fullmatch(status)
        ):
            raise Unmappable("`data.status` is not of Courier's form")
    return event


def _name_on_channel(event: CourierEvent, entry: dict[str, Any]) -> str:
    channel = channel_of(entry)
    if not channel:
        return ""
    status, provider, outcome = event.status, entry.get("provider"), ""
    if status == "UNDELIVERABLE":
        reason = event.data.get("reason")
        outcome = undeliverable(
            channel=channel,
            reason=reason.upper() if isinstance(reason, str) else "",
            errors=(entry.get("error"), event.data.get("error")),
        )
    return channel_name(
        status=status,
        channel=channel,
        provider=provider.lower() if isinstance(provider, str) else "",
        outcome=outcome,
    )


def _anonymous_after_rules(mapped: MappedEvent, event: CourierEvent, key: str) -> str | None:
    """Return the id of an event whose ids a rule removed: the gateway refuses one that has none."""
    if mapped.user_id:
        return None
    nobody = CourierEvent(type=event.type, data={"id": event.data.get("id")}, status="")
    return identity_of(nobody, fallback=key).anonymous_id
