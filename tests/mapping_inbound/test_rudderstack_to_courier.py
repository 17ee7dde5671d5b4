"""What the sample events leave open: switches, relay, lists, data, ids, and that nothing breaks the mapper."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.errors import Unmappable
from forwarder.mapping.link_file import read_link_file
from forwarder.mapping.links import Link, Links, LinkType, TargetKind
from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.mapping.traits import profile_from
from forwarder.model import Delivery, Envelope, Filtered, Lease, RouteName, Unmapped

_TRACK = {"type": "track", "userId": "u1", "event": "Order Completed"}
_ENGAGE = {"personas": {"computation_class": "audience", "computation_key": "vip", "computation_id": "aud_1"}}


def _mapper(*links: Link, **options: Any) -> RudderstackToCourier:
    return RudderstackToCourier(lambda: Links(links), **options)


def _link(to: TargetKind = TargetKind.AUTOMATION, **fields: Any) -> Link:
    return Link(**{"event": "Order Completed", "target": "t", "target_kind": to, **fields})


@pytest.mark.parametrize(
    ("integrations", "source", "is_filtered"),
    [
        ({"Courier": False}, "rudderstack", True),
        ({"Courier": False}, "segment", True),
        ({"All": True, "Courier": False}, "v1", True),
        ({"COURIER": False, "courier": False}, "v1", False),
        ({"All": False}, "v1", True),
        ({"All": False}, "rudderstack", False),
        ({"All": False}, "segment", False),
        ({"All": False, "Courier": True}, "v1", False),
        ({"All": False, "Courier": {"key": 1}}, "v1", False),
        ({"All": "yes", "Courier": True}, "v1", True),
        ({"All": None}, "v1", False),
        ({}, "v1", False),
        ("none", "v1", False),
        (None, "v1", False),
    ],
    ids=str,
)
def test_the_senders_switch_is_honoured_as_rudderstack_does(
    integrations: object, source: str, *, is_filtered: bool, lease_of: Any, outcome: Any
) -> None:
    """`Courier: false` filters from every source, `All: false` where nobody has honoured it yet."""
    found = outcome(_mapper(_link()), lease_of({**_TRACK, "integrations": integrations}, source=source))
    assert ("filtered" in found) is is_filtered


@pytest.mark.parametrize(
    ("automation", "body"),
    [
        ({"data": ["x"], "recipient": True, "profile": "p", "brand": 3}, {"recipient": "u1"}),
        ({"data": {"a": 1}, "recipient": 42, "brand": "B"}, {"recipient": "42", "data": {"a": 1}, "brand": "B"}),
        ({"recipient": None, "profile": {"email": "e"}}, {"recipient": None, "profile": {"email": "e"}}),
        ({"steps": ["delay"], "recipient": ""}, {"recipient": "u1"}),
        ({"template": "..", "cancelation_token": "t"}, {"recipient": "u1"}),
        ({"template": {"id": 1}}, {"recipient": "u1"}),
    ],
    ids=str,
)
def test_inline_parts_count_for_linked_automations_and_wrong_ones_are_absent(
    automation: dict[str, Any], body: dict[str, Any], lease_of: Any, outcome: Any
) -> None:
    """Without steps and template the links run, with the event's own recipient, profile, brand and data."""
    event = {**_TRACK, "properties": {"courier": {"automation": automation}}}
    ((group, operation, sent),) = outcome(_mapper(_link()), lease_of(event))["calls"]
    assert (group, operation) == ("automations", "POST /automations/t/invoke")
    data = sent.pop("data") if not isinstance(automation.get("data"), dict) else None
    assert data is None or data["properties"] == event["properties"]
    assert sent == body


def test_inline_parts_reach_journeys_templates_and_lists(lease_of: Any, outcome: Any) -> None:
    """The event's own recipient, data, profile and brand count for every kind of target."""
    inline = {"recipient": "u2", "data": {"a": 1}, "profile": {"email": "e"}, "brand": "B"}
    event = {**_TRACK, "properties": {"courier": {"automation": inline}}}
    links = [_link(kind) for kind in (TargetKind.JOURNEY, TargetKind.TEMPLATE, TargetKind.LIST)]
    assert outcome(_mapper(*links), lease_of(event))["calls"] == [
        ["journeys", "POST /journeys/t/invoke", {"user_id": "u2", "data": {"a": 1}, "profile": {"email": "e"}}],
        [
            "send",
            "POST /send",
            {"message": {"to": {"user_id": "u2"}, "template": "t", "data": {"a": 1}, "brand_id": "B"}},
        ],
        ["lists", "PUT /lists/t/subscriptions/u2", {}],
    ]


@pytest.mark.parametrize(
    ("properties", "source", "to"),
    [
        ({"pattern": "eu.*"}, "segment", {"list_pattern": "eu.*"}),
        ({"list": "l", "pattern": "eu.*"}, "segment", {"list_id": "l"}),
        ({"list": "l"}, "rudderstack", {"user_id": "u1"}),
        ({"list": 3}, "segment", {"user_id": "u1"}),
    ],
    ids=str,
)
def test_a_segment_track_may_name_a_list_as_recipient(
    properties: dict[str, Any], source: str, to: dict[str, str], lease_of: Any, outcome: Any
) -> None:
    """`properties.list` and `properties.pattern` override the recipient of a template, for Segment alone."""
    found = outcome(_mapper(_link(TargetKind.TEMPLATE)), lease_of({**_TRACK, "properties": properties}, source=source))
    assert found["calls"][0][2]["message"]["to"] == to


def test_properties_win_over_the_events_own_fields(lease_of: Any, outcome: Any) -> None:
    """A property keeps the root of `data`; the event's own fields stand beside it where the name is free."""
    event = {**_TRACK, "userId": 7, "messageId": "m", "properties": {"event": "mine", "type": 1}, "traits": {"a": 1}}
    (call,) = outcome(_mapper(_link()), lease_of(event))["calls"]
    assert call[2]["data"] == {
        "event": "mine",
        "type": 1,
        "userId": "7",
        "messageId": "m",
        "properties": {"event": "mine", "type": 1},
        "traits": {"a": 1},
    }


def test_data_above_a_megabyte_is_the_properties_alone(lease_of: Any, outcome: Any) -> None:
    """Where properties twice would pass a megabyte they are sent once; what fits is sent whole."""
    properties = {"text": "x" * 600_000}
    (call,) = outcome(_mapper(_link()), lease_of({**_TRACK, "properties": properties}))["calls"]
    assert call[2]["data"] == properties
    traits = {"text": "x" * 1_200_000}
    identify = {"type": "identify", "userId": "u1", "traits": traits}
    calls = outcome(_mapper(Link(type=LinkType.IDENTIFY, event="identify", target="t")), lease_of(identify))["calls"]
    assert calls[1][2]["data"] == {"userId": "u1", "type": "identify", "traits": traits}


@pytest.mark.parametrize(
    ("event", "source", "sent"),
    [
        ({"type": "track", "userId": "u"}, "segment", None),
        ({"type": "group", "userId": "u", "groupId": "g"}, "rudderstack", None),
        ({"type": "track", "userId": "u", "anonymousId": None}, "segment", None),
        ({"type": "track", "userId": "u", "anonymousId": None}, "v1", {"type": "track", "userId": "u"}),
        (
            {"type": "IDENTIFY", "userId": "u", "context": {"traits": {"a": None}}},
            "rudderstack",
            {"type": "IDENTIFY", "userId": "u", "context": {"traits": {"a": None}}, "traits": {"a": None}},
        ),
        ({"type": "identify", "userId": "u", "context": {"traits": {"a": 1}}, "traits": {}}, "rudderstack", None),
        ({"type": "identify", "userId": "u", "context": {"traits": {"a": 1}}}, "segment", None),
        ({"type": "identify", "userId": "u"}, "rudderstack", None),
    ],
    ids=str,
)
def test_relay_hands_on_what_the_destination_would_post(
    event: dict[str, Any], source: str, sent: dict[str, Any] | None, lease_of: Any
) -> None:
    """The whole event goes to Courier's own receiver: bytes as they came, but for what RudderStack changes."""
    lease = lease_of(event, source=source)
    mapped = _mapper(_link(), is_relay=True).map(lease)
    assert isinstance(mapped, tuple)
    vendor = "segment" if source == "segment" else "rudderstack"
    assert [made.operation for made in mapped] == [f"POST /inbound/{vendor}"]
    assert mapped[0].group == "inbound"
    if sent is None:
        assert mapped[0].body == lease.envelope.payload
    else:
        assert json.loads(mapped[0].body) == sent


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "page", "userId": "u"}, Filtered),
        ({**_TRACK, "context": {"integration": {"name": "Courier"}}}, Filtered),
        ({"type": "identify", "userId": "u", "context": _ENGAGE, "traits": {"vip": True}}, Filtered),
    ],
    ids=["page", "loop", "audience"],
)
def test_relay_filters_what_the_direct_mode_filters(event: dict[str, Any], expected: type, lease_of: Any) -> None:
    """The loop guard and the types count in relay mode too, and Segment forwards no audiences."""
    assert isinstance(_mapper(is_relay=True).map(lease_of(event, source="segment")), expected)


@pytest.mark.parametrize("is_relay", [False, True])
def test_a_configured_audience_is_synced_in_both_modes(*, is_relay: bool, lease_of: Any, outcome: Any) -> None:
    """An audience of Engage becomes a list subscription and nothing else."""
    event = {"type": "identify", "userId": "u", "context": _ENGAGE, "traits": {"vip": True}}
    mapper = _mapper(is_relay=is_relay, sync_engage_lists=True)
    assert outcome(mapper, lease_of(event))["calls"] == [["lists", "PUT /lists/vip-aud_1/subscriptions/u", {}]]


@pytest.mark.parametrize(
    ("traits", "calls"),
    [
        ({"beta": True}, ["POST /profiles/u", "PUT /lists/testers/subscriptions/u"]),
        ({"beta": False}, ["POST /profiles/u", "DELETE /lists/testers/subscriptions/u"]),
        ({"beta": "yes"}, ["POST /profiles/u"]),
        ({}, ["POST /profiles/u"]),
    ],
    ids=str,
)
def test_a_list_follows_a_boolean_trait(traits: dict[str, Any], calls: list[str], lease_of: Any, outcome: Any) -> None:
    """A list linked to identify under a trait's name is joined and left with that trait."""
    link = Link(type=LinkType.IDENTIFY, event="beta", target="testers", target_kind=TargetKind.LIST)
    event = {"type": "identify", "userId": "u", "traits": traits}
    assert [call[1] for call in outcome(_mapper(link), lease_of(event))["calls"]] == calls
    assert outcome(_mapper(link), lease_of({**_TRACK, "traits": traits})) == {
        "unmapped": "nothing is linked to this event",
    }


@pytest.mark.parametrize(("flag", "method"), [([], "PUT"), (1, "PUT"), ("", "DELETE"), (0, "DELETE"), (None, "DELETE")])
def test_a_linked_audience_follows_its_flag(flag: object, method: str, lease_of: Any, outcome: Any) -> None:
    """A list link under a computation's key replaces the switch, and the flag is judged as Segment's action does."""
    link = Link(type=LinkType.IDENTIFY, event="vip", target="best", target_kind=TargetKind.LIST)
    event = {**_TRACK, "properties": {"vip": flag}, "context": _ENGAGE}
    assert outcome(_mapper(link), lease_of(event, source="segment"))["calls"] == [
        ["lists", f"{method} /lists/best/subscriptions/u1", {} if method == "PUT" else None],
    ]


def test_an_audience_without_a_list_is_an_ordinary_identify(lease_of: Any, outcome: Any) -> None:
    """Where no list is configured the flag is a trait like any other."""
    event = {"type": "identify", "userId": "u", "context": _ENGAGE, "traits": {"vip": True}}
    assert outcome(_mapper(), lease_of(event, source="segment"))["calls"] == [
        ["profiles", "POST /profiles/u", {"profile": {"vip": True}}],
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b'{"type": "track", "userId": "u", "n": 1e999}', "not readable as JSON, or it holds a number out of range"),
        (b"{", "not readable as JSON, or it holds a number out of range"),
        (b'{"type": "track", "a": ' + b"[" * 200 + b"]" * 200 + b"}", "nested deeper than 200 levels"),
        (b'{"type": "track", "a": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", "nested deeper than 200 levels"),
        (b'{"type": "track", "userId": {}}', "userId is an object or an array"),
        (b'{"type": "group", "userId": "u", "groupId": ".."}', "groupId consists of dots and cannot be part of a path"),
        (b'{"type": "identify", "userId": "\\u200b \\u3164"}', "neither userId nor anonymousId"),
        (b'{"type": " ", "userId": "u"}', "the call has no type"),
        (b'{"type": 7, "userId": "u"}', "the call has no type"),
        (
            b'{"type": "identify", "userId": "' + b"u" * 6_000 + b'"}',
            "an id is too long to be part of a path of Courier's API",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_never_become_a_call_says_why(payload: bytes, reason: str, lease_of: Any, outcome: Any) -> None:
    """An event that cannot be mapped is dead with a reason that names fields and quotes nothing."""
    assert outcome(_mapper(), lease_of(payload)) == {"dead": reason}


def test_exactly_two_hundred_levels_pass(lease_of: Any) -> None:
    """The limit of nesting is exact: the call itself is the first level."""
    payload = b'{"type": "page", "a": ' + b"[" * 199 + b"]" * 199 + b"}"
    assert isinstance(_mapper().map(lease_of(payload)), Filtered)


def test_ids_of_other_types_become_text(lease_of: Any, outcome: Any) -> None:
    """Numbers and booleans are ids, as for the gateway; integers keep every digit."""
    for value, text in (
        (12345678901234567890123, "12345678901234567890123"),
        (1.5, "1.5"),
        (1234.0, "1234"),
        (True, "true"),
    ):
        calls = outcome(_mapper(), lease_of({"type": "identify", "userId": value}))["calls"]
        assert calls[0][1] == f"POST /profiles/{text}"


def test_traits_are_renamed_without_losing_any() -> None:
    """Well-known traits take Courier's names; a name that is taken already leaves both as they came."""
    traits = {"phone": "1", "phone_number": "2", "mobile": "3", "address": {"city": "L", "street": None}, "a": {"b": 1}}
    names = {"phone": "phone_number", "mobile": "phone_number", "address.city": "address.locality", "a.b": "c"}
    assert profile_from(traits, names) == {
        "phone": "1",
        "phone_number": "2",
        "mobile": "3",
        "address": {"locality": "L", "street": None},
        "a": {"b": 1},
    }
    assert profile_from({"mobile": "1", "phone": "2"}, names) == {"phone_number": "1", "phone": "2"}


def test_the_loop_guard_can_be_switched_off_in_the_file(lease_of: Any, outcome: Any) -> None:
    """What the links file says beside its links reaches the mapper: renames, Engage's lists, the loop guard."""
    text = 'loop_guard = false\n[traits]\nplan = "tier"\n[segment]\nsync_lists = true\n'
    mapper = RudderstackToCourier.of(Links, read_link_file(text, file="links.toml"), is_relay=False)
    personas = {**_ENGAGE["personas"], "computation_class": "journey_step"}
    context = {"integration": {"name": "Courier"}, "personas": personas}
    event = {"type": "identify", "userId": "u", "traits": {"plan": "pro", "vip": True}, "context": context}
    assert [call[1:] for call in outcome(mapper, lease_of(event))["calls"]] == [
        ["POST /profiles/u", {"profile": {"tier": "pro", "vip": True}}],
        ["PUT /lists/vip-aud_1/subscriptions/u", {}],
    ]


def test_whoever_asked_is_told_of_every_loop(lease_of: Any) -> None:
    """A loop that was stopped is told once, with its reason; nothing else is."""
    told: list[str] = []
    mapper = _mapper(on_loop=told.append)
    mapper.map(lease_of({**_TRACK, "context": {"integration": {"name": "Courier"}}}))
    mapper.map(lease_of(_TRACK))
    assert told == ["loop guard: marked as Courier's own event"]


def test_a_change_of_links_counts_from_the_next_event(lease_of: Any) -> None:
    """The mapper asks for the links at every event."""
    current = [Links()]
    mapper = RudderstackToCourier(lambda: current[0])
    assert isinstance(mapper.map(lease_of(_TRACK)), Unmapped)
    current[0] = Links([_link()])
    assert isinstance(mapper.map(lease_of(_TRACK)), tuple)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
_FIELDS = ("type", "userId", "anonymousId", "groupId", "event", "properties", "traits", "context", "integrations")
_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_FIELDS, _JSON),
        "type": st.sampled_from(["track", "identify", "group", "page", "Track"]) | _JSON,
        "userId": st.text(min_size=1, max_size=5) | _JSON,
        "properties": st.fixed_dictionaries({"courier": st.fixed_dictionaries({"automation": _JSON})}) | _JSON,
        "context": st.fixed_dictionaries({}, optional={"personas": _JSON, "traits": _JSON}) | _JSON,
    },
)


@settings(max_examples=200, deadline=None)
@given(event=_EVENTS, source=st.sampled_from(["rudderstack", "segment", "v1"]), is_relay=st.booleans())
def test_any_object_is_mapped_or_named_unmappable(event: dict[str, Any], source: str, *, is_relay: bool) -> None:
    """Whatever object arrives, the mapper returns calls or a reason, or raises Unmappable, and nothing else."""
    envelope = Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER,
        event_key=b"",
        partition_key="",
        received_at_ms=0,
        payload=msgspec.json.encode(event),
        source=source,
    )
    mapper = _mapper(_link(), is_relay=is_relay, sync_engage_lists=True)
    lease = Lease(sequence=1, attempt=1, first_failed_at_ms=None, progress=b"", envelope=envelope)
    with suppress(Unmappable):
        mapped = mapper.map(lease)
        assert isinstance(mapped, Filtered | Unmapped) or _are_calls(mapped)


def _are_calls(mapped: tuple[Delivery, ...]) -> bool:
    return bool(mapped) and all(made.operation.partition(" ")[2].isascii() and made.group for made in mapped)
