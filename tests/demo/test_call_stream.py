"""The stream of calls is repeatable and knows what each call must do at Courier."""

import json

from forwarder.demo.call_stream import ENDPOINTS, LINKS, CallStream, Effect, happened

NOW_MS = 1_767_225_600_000


def test_the_same_seed_gives_the_same_calls() -> None:
    """A stream can be repeated, every call has its own messageId, and all endpoints and kinds occur."""
    one, other = CallStream(seed=4), CallStream(seed=4)
    calls = [one.call(NOW_MS) for _ in range(300)]

    assert calls == [other.call(NOW_MS) for _ in range(300)]
    assert len({call.event["messageId"] for call in calls}) == 300
    assert len({call.facts.key for call in calls}) == 300
    assert {call.endpoint for call in calls} == set(ENDPOINTS)
    assert {call.event["type"] for call in calls} == {"identify", "track", "group", "page"}
    assert {call.event["event"] for call in calls if call.event["type"] == "track"} > set(LINKS)


def test_bodies_have_the_form_of_their_endpoint() -> None:
    """`/v1/batch` takes a batch, the inbound endpoints the bare event."""
    for endpoint in ENDPOINTS:
        call = CallStream(seed=1, endpoints=[endpoint]).identify(NOW_MS, "u1")
        body = json.loads(call.body())
        assert body == ({"batch": [call.event]} if endpoint == "/v1/batch" else call.event)


def test_effects_are_recognised() -> None:
    """The effect that a call must have is read back under the call's key and name."""
    stream = CallStream(seed=1)
    identify, linked, ad_hoc, group = (
        make(NOW_MS, "u1") for make in (stream.identify, stream.linked, stream.ad_hoc, stream.group)
    )
    automation = ad_hoc.event["properties"]["courier"]["automation"]
    effects = [
        (identify, {"user": "u1"}, {"profile": identify.event["traits"]}),
        (linked, {"template": "order-thanks"}, {"recipient": "u1", "data": linked.event["properties"]}),
        (ad_hoc, {}, {"automation": automation, "data": automation["data"]}),
        (group, {"user": "u1", "tenant": group.event["groupId"]}, None),
    ]
    for call, params, body in effects:
        sighting = happened(Effect(user="u1", operation=str(call.facts.name), params=params, body=body))
        assert sighting is not None
        assert (sighting.key, sighting.name, sighting.user) == (call.facts.key, call.facts.name, "u1")
    tenant = Effect(user="", operation="PUT /tenants/{tenant}", params={"tenant": "t"}, body={"name": "n"})
    assert happened(tenant) is None
    assert stream.page(NOW_MS).facts.name is None
    assert stream.unlinked(NOW_MS).facts.name is None
