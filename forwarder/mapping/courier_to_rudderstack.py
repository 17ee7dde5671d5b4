"""From a stored webhook event of Courier's to the one track call that RudderStack shall get. Pure.

Read, choose, name, identify, time, let the rules at it, encode: `map` below is the whole way. Nothing
is dropped: what is not sent is `Filtered` or `Unmappable`, with its reason.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

from forwarder.courier import vocabulary
from forwarder.courier.event import CourierEvent, channel_of, event_name, read, summary_of, usual, usual_data
from forwarder.errors import Unmappable
from forwarder.mapping.channel_names import channel_name, undeliverable
from forwarder.mapping.channel_properties import campaign_context, message_properties
from forwarder.mapping.event_time import event_time_ms
from forwarder.mapping.identity import USER_ID_TYPE, identity_of
from forwarder.mapping.rule import MappedEvent
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
_NAMES_MAX = 256


class CourierToRudderStack:
    """The mapper of the route `courier_to_rudderstack`; `ports.Mapper`."""

    def __init__(self, calls: TrackCalls, *, preset: Preset, selection: EventSelection, rules: Rules) -> None:
        """`preset` is FORWARDER_EVENT_NAMES, `selection` FORWARDER_EVENTS, `rules` FORWARDER_RULES."""
        self._calls = calls
        self._is_channel = preset == "channel"
        self._selection = selection
        self._rules = rules
        self._is_plain = preset == "courier" and not rules.rules  # data goes out as it came
        self._name = lru_cache(maxsize=_NAMES_MAX)(self._native_name)  # there are few, and many events of each

    def map_batch(self, leases: Sequence[Lease]) -> list[tuple[Delivery, ...] | Filtered | Unmappable]:
        """Map each of them; what `map` raises stands in its place."""
        mapped: list[tuple[Delivery, ...] | Filtered | Unmappable] = []
        for lease in leases:
            try:
                delivery = self.delivery(lease.sequence, lease.envelope)
            except Unmappable as error:
                mapped.append(error)
            else:
                mapped.append(delivery if isinstance(delivery, Filtered) else (delivery,))
        return mapped

    def map(self, lease: Lease) -> tuple[Delivery, ...] | Filtered:
        """Return the one delivery, or why there is none; raises `Unmappable` for what is malformed."""
        delivery = self.delivery(lease.sequence, lease.envelope)
        return delivery if isinstance(delivery, Filtered) else (delivery,)

    def delivery(self, sequence: int, envelope: Envelope) -> Delivery | Filtered:
        """Return the track call, complete but for `sentAt`; else as `map`."""
        if self._is_plain and (body := self._usual(envelope)) is not None:
            return Delivery(sequence=sequence, operation=OPERATION, body=body)
        event = read(envelope.payload)
        # Of other types a status means nothing, and is as long as its sender likes: no name is kept with it.
        name, is_selected = self._name(event.type, event.status if event.type == vocabulary.MESSAGE_UPDATED else "")
        if self._is_channel or (self._selection.words and not is_selected):
            by_channel = _name_on_channel(event)
            is_selected = is_selected or self._admits(event.type, event.status, by_channel)
            name = (by_channel if self._is_channel else "") or name
        if not is_selected:
            return Filtered(reason=NOT_SELECTED)
        key = envelope.event_key.hex()
        identity = identity_of(event, fallback=key)
        # Where nothing changed it, `data` is sent in the bytes that it came in.
        properties = event.data if event.raw is None else event.raw
        user_id, anonymous_id, context = identity.user_id, identity.anonymous_id, {}
        if identity.email or identity.phone:
            context["traits"] = identity.traits
        if self._is_channel or self._rules.rules:
            mapped = self._rules.apply(self._mapped(event, name, user_id, anonymous_id, context))
            if isinstance(mapped, Filtered):
                return mapped
            name, user_id, context = mapped.event, mapped.user_id, mapped.context
            anonymous_id = mapped.anonymous_id or ("" if user_id else _anonymous_after_rules(event, key))
            if self._rules.rules or mapped.properties is not event.data:
                properties = mapped.properties
        body = self._calls.encode(
            TrackCall(
                event=name,
                user_id=user_id or None,
                anonymous_id=anonymous_id or None,
                message_id=MESSAGE_ID_PREFIX + key,
                timestamp_ms=event_time_ms(event, received_at_ms=envelope.received_at_ms),
                properties=properties,
                context=context,
            )
        )
        if isinstance(properties, msgspec.Raw):
            return Delivery(sequence=sequence, operation=OPERATION, body=body)
        if self._rules.rules and is_too_deep(body):  # rules may have put one thing into another
            raise Unmappable(TOO_DEEP)
        harmless = without_forbidden_keys(body)
        note = FORBIDDEN_KEY_NOTE if harmless != body else ""
        return Delivery(sequence=sequence, operation=OPERATION, body=harmless, note=note)

    def _usual(self, envelope: Envelope) -> bytes | None:
        """Return the call of a usual message that has a user and a time, at a third of the cost; None for all else.

        The same as what the long way makes of it.
        """
        summary = envelope.summary
        if summary is None:
            message = usual(envelope.payload)
            if message is None or (summary := summary_of(message)) is None:
                return None
        name, is_selected = self._name(vocabulary.MESSAGE_UPDATED, summary.status)
        if not is_selected:
            return None
        return self._calls.encode_plain(
            event=name,
            user_id=summary.user_id,
            message_id=MESSAGE_ID_PREFIX + envelope.event_key.hex(),
            timestamp_ms=summary.at_ms,
            properties=usual_data(envelope.payload),
        )

    def _native_name(self, kind: str, status: str) -> tuple[str, bool]:
        """Return what an event is called without its channel, and whether it goes out whatever its channel is.

        Raises `Unmappable` for words that are none of Courier's.
        """
        _refuse_malformed(kind, status)
        name = event_name(kind, status) if kind == vocabulary.MESSAGE_UPDATED else vocabulary.type_name(kind)
        return name, self._admits(kind, status, name)

    def _admits(self, kind: str, status: str, name: str) -> bool:
        return self._selection.admits(kind=kind, status=status, names=(name,))

    def _mapped(
        self, event: CourierEvent, name: str, user_id: str, anonymous_id: str, context: dict[str, Any]
    ) -> MappedEvent:
        properties = event.data
        if self._is_channel:
            if user_id:
                context["externalId"] = [{"type": USER_ID_TYPE, "id": user_id}]
            if campaign := campaign_context(event.data):
                context["campaign"] = campaign
            if event.type == vocabulary.MESSAGE_UPDATED:
                entry = event.deciding_provider()
                properties = message_properties(event, entry, channel=channel_of(entry))
        return MappedEvent(
            kind=event.type,
            data=event.data,
            event=name,
            user_id=user_id,
            anonymous_id=anonymous_id,
            properties=properties,
            context=context,
        )


def _refuse_malformed(kind: str, status: str) -> None:
    if kind == vocabulary.MESSAGE_UPDATED:
        if not status:
            raise Unmappable("`data.status` is missing or not a text")
        if status not in vocabulary.MESSAGE_NAMES and (
            len(status) > _WORD_CHARACTERS_MAX or not _GOOD_STATUS.fullmatch(status)
        ):
            raise Unmappable("`data.status` is not of Courier's form")
    elif len(kind) > _WORD_CHARACTERS_MAX or not _GOOD_TYPE.fullmatch(kind):
        raise Unmappable("`type` is not of Courier's form")


def _name_on_channel(event: CourierEvent) -> str:
    entry = event.deciding_provider() if event.type == vocabulary.MESSAGE_UPDATED else {}
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


def _anonymous_after_rules(event: CourierEvent, key: str) -> str:
    """Return the id of an event whose ids a rule removed: the gateway refuses one that has none."""
    nobody = CourierEvent(type=event.type, data={"id": event.data.get("id")}, status="")
    return identity_of(nobody, fallback=key).anonymous_id
