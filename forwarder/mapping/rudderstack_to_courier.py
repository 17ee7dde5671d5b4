"""From a stored call of RudderStack or Segment to the Courier calls that it means.

    read → loop guard → integrations → type → ids → plan (profile | tenant | automation, links, lists)

Pure: it plans, and never sends. The plan of an event is made once, at its first attempt, and kept with
it; so a link that changes meanwhile does not shift it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, assert_never

import msgspec

from forwarder.courier.calls import CallMaker
from forwarder.errors import Unmappable
from forwarder.mapping.engage import computation_of, list_changes
from forwarder.mapping.event_data import data_of
from forwarder.mapping.inline_automation import InlineAutomation, read_inline_automation
from forwarder.mapping.link_file import LinkFile
from forwarder.mapping.links import Link, Links, LinkSource, LinkType, TargetKind
from forwarder.mapping.loop_guard import came_from_courier
from forwarder.mapping.stored_call import Call, read_call
from forwarder.mapping.traits import PROFILE_KEYS, profile_from
from forwarder.model import Filtered, Lease, Unmapped
from forwarder.ports import Mapped

# Servers refuse long request lines, with an answer that would look like a wrong URL and hold the route.
_OPERATION_LENGTH_MAX = 6_000
_NAME = "Courier"  # what `integrations` calls the destination
_FILTERED_TYPES = frozenset({"page", "screen", "alias"})


class RudderstackToCourier:
    """Map inbound events. `links` is asked at every event, so that a change counts from the next one on.

    `on_loop` is told why an event of Courier's own that came back is filtered.
    """

    def __init__(
        self,
        links: Callable[[], Links],
        *,
        is_relay: bool = False,
        profile_keys: Mapping[str, str] = PROFILE_KEYS,
        sync_engage_lists: bool = False,
        guards_loops: bool = True,
        on_loop: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._links = links
        self._is_relay = is_relay
        self._profile_keys = profile_keys
        self._sync_engage_lists = sync_engage_lists
        self._guards_loops = guards_loops
        self._on_loop = on_loop

    @classmethod
    def of(
        cls,
        links: Callable[[], Links],
        file: LinkFile,
        *,
        is_relay: bool,
        on_loop: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Return a mapper with these links and with what the file says beside its links."""
        return cls(
            links,
            is_relay=is_relay,
            profile_keys=file.profile_keys,
            sync_engage_lists=file.syncs_engage_lists,
            guards_loops=file.guards_loops,
            on_loop=on_loop,
        )

    def map_batch(self, leases: Sequence[Lease]) -> list[Mapped | Unmappable]:
        """Map each of them; what `map` raises stands in its place."""
        mapped: list[Mapped | Unmappable] = []
        for lease in leases:
            try:
                mapped.append(self.map(lease))
            except Unmappable as error:
                mapped.append(error)
        return mapped

    def map(self, lease: Lease) -> Mapped:
        """Return the Courier calls in order, or why there are none; raises only `Unmappable`."""
        envelope = lease.envelope
        call = read_call(envelope.payload)
        # An SDK's data plane is its events' first stop: nobody before us has honoured `All`.
        is_first_stop = envelope.source == "v1"
        loop = came_from_courier(call) if self._guards_loops else ""
        if loop:
            self._on_loop(loop)
        why_not = loop or _switched_off(call.raw.get("integrations"), is_first_stop=is_first_stop)
        if why_not:
            return Filtered(reason=why_not)
        if call.type in _FILTERED_TYPES:
            return Filtered(reason=f"{call.type} calls have no counterpart at Courier")
        if call.type not in set(LinkType):
            return Filtered(reason="a call of unknown type")
        _demand_ids(call)
        source = LinkSource.SEGMENT if envelope.source == "segment" else LinkSource.RUDDERSTACK
        mapped = self._plan(call, source, CallMaker(lease.sequence), envelope.payload)
        if isinstance(mapped, tuple) and any(len(made.operation) > _OPERATION_LENGTH_MAX for made in mapped):
            raise Unmappable("an id is too long to be part of a path of Courier's API")
        return mapped

    def _plan(self, call: Call, source: LinkSource, calls: CallMaker, payload: bytes) -> Mapped:
        links = self._links()
        changes = list_changes(call, links, source, sync_all=self._sync_engage_lists)
        is_audience = computation_of(call).is_audience
        if self._is_relay and is_audience and not changes:
            return Filtered(reason="an Engage audience, for which no list is configured, is not relayed")
        # Segment's action syncs an audience to its list and forwards nothing of it.
        if not (is_audience and changes):
            if self._is_relay:
                _relay(call, payload, calls, to_segment=source is LinkSource.SEGMENT)
            else:
                _plan_directly(call, calls, links=links, source=source, profile_keys=self._profile_keys)
        for list_id, is_member in changes.items():
            (calls.subscribe if is_member else calls.unsubscribe)(call.recipient, list_id)
        if calls.made:
            return calls.made
        return Unmapped(
            reason="nothing is linked to this event" if call.event else "a track call without an event name"
        )


def _plan_directly(
    call: Call, calls: CallMaker, *, links: Links, source: LinkSource, profile_keys: Mapping[str, str]
) -> None:
    inline = InlineAutomation()
    match LinkType(call.type):
        case LinkType.IDENTIFY as type_:
            calls.merge_profile(call.recipient, profile_from(call.traits, profile_keys))
        case LinkType.GROUP as type_:
            calls.write_tenant(call.group_id, name=_tenant_name(call), properties=_tenant_properties(call))
            calls.join_tenant(call.recipient, call.group_id)
        case LinkType.TRACK as type_:
            inline = read_inline_automation(call.properties)
            if inline.steps or inline.template:
                _invoke_inline(call, inline, calls)
                return
        case _ as unreachable:
            assert_never(unreachable)
    event = call.event if type_ is LinkType.TRACK else type_.value
    for link in links.of(type_, event, source):
        _start(link, call, inline, calls, is_segment=source is LinkSource.SEGMENT)


def _demand_ids(call: Call) -> None:
    if not call.recipient:
        raise Unmappable("neither userId nor anonymousId")
    if call.type == LinkType.GROUP and not call.group_id:
        raise Unmappable("a group call without groupId")


def _tenant_name(call: Call) -> str:
    name = call.traits.get("name")
    return name if isinstance(name, str) and name.strip() else ""


def _tenant_properties(call: Call) -> dict[str, object]:
    """Return the traits that are not the name: templates read them as the tenant's properties."""
    name_is_taken = bool(_tenant_name(call))
    return {key: value for key, value in call.traits.items() if key != "name" or not name_is_taken}


def _invoke_inline(call: Call, inline: InlineAutomation, calls: CallMaker) -> None:
    fields = _invoke_fields(call, inline, data=inline.data)
    if inline.steps:
        calls.invoke_steps(inline.steps, cancelation_token=inline.cancelation_token, **fields)
    else:
        calls.invoke_automation(inline.template, **fields)


def _invoke_fields(call: Call, inline: InlineAutomation, *, data: object) -> dict[str, object]:
    recipient = None if inline.is_recipient_null else inline.recipient or call.recipient
    optional = {"data": data, "profile": inline.profile, "brand": inline.brand or None}
    return {"recipient": recipient, **{name: value for name, value in optional.items() if value is not None}}


def _start(link: Link, call: Call, inline: InlineAutomation, calls: CallMaker, *, is_segment: bool) -> None:
    data = data_of(call) if inline.data is None else inline.data
    recipient = inline.recipient or call.recipient
    match link.target_kind:
        case TargetKind.AUTOMATION:
            calls.invoke_automation(link.target, **_invoke_fields(call, inline, data=data))
        case TargetKind.JOURNEY:
            profile = {} if inline.profile is None else {"profile": inline.profile}
            calls.invoke_journey(link.target, user_id=recipient, data=data, **profile)
        case TargetKind.TEMPLATE:
            to = _list_recipient(call) if is_segment else {}
            calls.send_template(link.target, to=to or {"user_id": recipient}, data=data, brand_id=inline.brand)
        case TargetKind.LIST:
            calls.subscribe(recipient, link.target)
        case _ as unreachable:
            assert_never(unreachable)


def _list_recipient(call: Call) -> dict[str, str]:
    """Return the list or the pattern of lists that a Segment track names instead of the user."""
    for field, name in (("list", "list_id"), ("pattern", "list_pattern")):
        value = call.properties.get(field)
        if isinstance(value, str) and value.strip():
            return {name: value}
    return {}


def _switched_off(integrations: object, *, is_first_stop: bool) -> str:
    """Return why the event is not for Courier by its sender's own switch, or "".

    A destination's key is its display name (`COURIER` switches nothing off at RudderStack), an object as its value
    switches it on, and a non-boolean `All` drops the event everywhere (rudder-server, processor/integrations).
    `is_first_stop`: nobody upstream has honoured `All` yet (an SDK's data plane); a destination's sender has.
    """
    if not isinstance(integrations, dict):
        return ""
    if integrations.get(_NAME) is False:
        return "switched off by its integrations: Courier is false"
    if is_first_stop and not _all_allows(integrations):
        return "switched off by its integrations: All is not true and Courier is not named"
    return ""


def _all_allows(integrations: dict[str, Any]) -> bool:
    everything = integrations.get("All")
    if everything is None or everything is True:
        return True
    named = integrations.get(_NAME)
    return everything is False and (named is True or isinstance(named, dict))


def _relay(call: Call, payload: bytes, calls: CallMaker, *, to_segment: bool) -> None:
    """Make the one call that hands the whole event on to Courier's own receiver: its Studio keeps the mapping.

    Bytes are passed as they came where nothing has to change.
    """
    vendor = "segment" if to_segment else "rudderstack"
    event = call.raw if to_segment else _as_the_destination_posts(call)
    calls.relay(vendor, payload if event == call.raw else msgspec.json.encode(event))


def _as_the_destination_posts(call: Call) -> dict[str, object]:
    # Nulls dropped, an identify's traits copied to the root, where an empty root object wins over the context's.
    event = {name: value for name, value in call.raw.items() if value is not None}
    root = event.get("traits")
    has_root_traits = isinstance(root, dict | list) or bool(root)
    if call.type == "identify" and not has_root_traits and "traits" in call.context:
        event["traits"] = call.context["traits"]
    return event
