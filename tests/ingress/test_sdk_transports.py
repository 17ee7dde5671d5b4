"""Every way in which the vendors' SDKs, of servers, browsers and phones, hand their calls over."""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forwarder.ingress.browsers import Documents
from forwarder.ingress.endpoints import CALL_TYPES
from forwarder.ingress.replies import Reply

CALLS = json.loads((Path(__file__).parents[1] / "vectors" / "rudderstack_events.json").read_text("utf-8"))
KEY = "key-of-the-source"
BASIC = {"authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()}
TEXT = {"content_type": "text/plain"}
TRACK = {"type": "track", "event": "Cart Seen", "anonymousId": "a1", "messageId": "m1"}
OTHER = TRACK | {"messageId": "m2"}

Build = Callable[..., Any]
Json = dict[str, Any]


def encoded(value: Any) -> bytes:
    """Write JSON as browsers do."""
    return json.dumps(value, separators=(",", ":")).encode()


def said(reply: Reply) -> Any:
    """Return the status and the text of an answer."""
    return reply.status, reply.body.decode()


SUCCESS = (200, '{"success":true}')
OK = (200, "ok")

TRANSPORTS: dict[str, tuple[str, Json, dict[str, str]]] = {
    "a key in the body": ("/v1/t", TRACK | {"writeKey": KEY}, {}),
    "a key in the body, long path": ("/v1/track", TRACK | {"writeKey": KEY}, TEXT),
    "a key in the body, bare host": ("/t", TRACK | {"writeKey": KEY}, TEXT),
    "both keys": ("/v1/t", TRACK | {"writeKey": KEY}, BASIC | TEXT),
    "a batch with its key": ("/v1/b", {"batch": [TRACK, OTHER], "writeKey": KEY, "sentAt": "x"}, TEXT),
    "a batch with its events' keys": ("/b", {"batch": [TRACK | {"writeKey": KEY}, OTHER | {"writeKey": KEY}]}, TEXT),
    "Java's": ("/v1/import/", {"batch": [TRACK], "writeKey": KEY, "context": {}}, {}),
    "a key in the query": ("/v1/batch?writeKey=" + KEY, {"batch": [TRACK]}, {}),
    "sendBeacon": (f"/beacon/v1/batch?writeKey={KEY}", {"batch": [TRACK], "sentAt": "x"}, TEXT),
    "a bearer key": ("/v1/batch", {"batch": [TRACK]}, {"authorization": f"Bearer {KEY}"}),
    "a server's": ("/v1/batch", {"batch": [TRACK]}, BASIC),
}


@pytest.mark.parametrize("name", TRANSPORTS)
@pytest.mark.parametrize("is_packed", [False, True])
def test_every_transport_is_taken(house: Any, name: str, *, is_packed: bool) -> None:
    """The call arrives with its type and its user, and the 200 is one that its family understands."""
    path, body, headers = TRANSPORTS[name]
    raw = encoded(body)
    if is_packed:
        raw, headers = gzip.compress(raw), headers | {"content_encoding": "gzip"}
    assert said(house.post(path, raw, **headers)) == (OK if "beacon" in path else SUCCESS)
    kept = [envelope.labels for envelope in house.spool.kept]
    assert [(label.type, label.event, label.user_id) for label in kept] == [("track", "Cart Seen", "a1")] * len(kept)
    assert len(kept) == len(body.get("batch", [body]))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"user_agent": "RudderLabs"}, OK, id="RudderStack's servers"),
        pytest.param({"user_agent": "rudder-sdk-go/4"}, OK, id="RudderStack's Go"),
        pytest.param({"anonymousid": "YTE="}, OK, id="RudderStack's browsers and phones"),
        pytest.param({"user_agent": "analytics-ruby/2.5"}, SUCCESS, id="Segment's Ruby"),
        pytest.param({"user_agent": "analytics-python/2.1.9"}, SUCCESS, id="both have this one"),
        pytest.param({}, SUCCESS, id="nobody known"),
    ],
)
def test_the_200_is_what_the_family_reads(house: Any, headers: dict[str, str], expected: Any) -> None:
    """Segment's SDKs parse the answer and repeat what is no JSON; RudderStack's read the status alone."""
    assert said(house.post("/v1/batch", encoded({"batch": [TRACK]}), **BASIC, **headers)) == expected


@pytest.mark.parametrize(
    ("path", "event", "expected"),
    [
        pytest.param("/v1/batch", TRACK | {"channel": "server"}, OK, id="RudderStack's events name a channel"),
        pytest.param("/v1/batch", TRACK | {"channel": 7}, SUCCESS, id="not a channel"),
        pytest.param("/v1/batch", TRACK | {"channel": "mobile", "writeKey": KEY}, SUCCESS, id="Segment's old Android"),
        pytest.param("/v1/b", TRACK | {"channel": "server"}, SUCCESS, id="a path of Segment's alone"),
    ],
)
def test_the_family_is_known_by_its_events(house: Any, path: str, event: Json, expected: Any) -> None:
    """Where the head tells nothing the first event does: both vendors' servers call themselves alike."""
    assert said(house.post(path, encoded({"batch": [event, OTHER]}), **BASIC)) == expected


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        pytest.param("/v1/t", TRACK, "key_missing", id="no key at all"),
        pytest.param("/v1/t", TRACK | {"writeKey": "other"}, "key_unknown", id="a wrong key in the body"),
        pytest.param("/v1/t", TRACK | {"writeKey": 7}, "key_unknown", id="a number for a key"),
        pytest.param("/v1/t", TRACK | {"writeKey": None}, "key_missing", id="null for a key"),
        pytest.param("/v1/t", TRACK | {"properties": {"writeKey": KEY}}, "key_missing", id="a key in another place"),
        pytest.param("/v1/b", {"batch": [TRACK, OTHER]}, "key_missing", id="a batch without keys"),
        pytest.param("/v1/b", {"batch": [TRACK | {"writeKey": "x"}]}, "key_unknown", id="a batch with wrong keys"),
        pytest.param("/v1/b", {"batch": [TRACK | {"writeKey": KEY}], "writeKey": "x"}, "key_unknown", id="a wrong one"),
        pytest.param("/v1/b", {"batch": []}, "key_missing", id="an empty batch"),
        pytest.param("/v1/b", {}, "key_missing", id="no batch"),
        pytest.param("/beacon/v1/batch?writeKey=x", {"batch": [TRACK]}, "key_unknown", id="a wrong key in the query"),
        pytest.param("/beacon/v1/batch?writeKey=", {"batch": [TRACK]}, "key_missing", id="an empty key in the query"),
    ],
)
def test_a_wrong_key_stays_401(house: Any, path: str, body: Json, reason: str) -> None:
    """Wherever the key is looked for, none and a wrong one are refused for good, as an SDK expects."""
    reply = house.post(path, encoded(body), **TEXT)
    assert reply.status == 401
    assert [found for _, found in house.rejections()] == [reason]
    assert house.spool.appends == 0


def test_events_of_a_batch_are_judged_by_their_own_keys(house: Any) -> None:
    """Where each event carries its key, those with a good one are taken beside the others."""
    batch = [TRACK | {"writeKey": KEY}, OTHER | {"writeKey": "other"}, OTHER | {"messageId": "m3"}]
    assert said(house.post("/v1/b", encoded({"batch": batch}), **TEXT)) == SUCCESS
    assert [envelope.labels.message_id for envelope in house.spool.kept] == ["m1"]


@pytest.mark.parametrize("kind", ["merge", "audiencelist"])
def test_rudderstacks_own_kinds_are_taken(house: Any, kind: str) -> None:
    """What only RudderStack's SDKs send is kept with its type, and ends filtered like a page."""
    assert house.post(f"/v1/{kind}", b'{"userId":"u1"}', **BASIC).status == 200
    assert house.spool.kept[0].labels.type == kind


def test_a_pixel_is_a_call(house: Any) -> None:
    """An image's address with a call in its query is that call, answered with an image; a dot is a member."""
    query = (
        f"writeKey={KEY}&event=Mail%20Opened&anonymousId=%22a1%22&context.page.path=/a&context.page.title=&messageId=m1"
        "&properties.a.b=1&properties.a.b=2&channel=amp"
    )
    reply = house.post(f"/pixel/v1/track?{query}", b"", "GET")
    assert (reply.status, reply.content_type, reply.body[:6]) == (200, "image/gif", b"GIF89a")
    stored = json.loads(house.payloads()[0])
    assert stored.pop("originalTimestamp") == stored.pop("sentAt") == "2026-01-01T00:00:40.123+00:00"
    assert stored == {
        "type": "track",
        "channel": "amp",
        "integrations": {"All": True},
        "event": "Mail Opened",
        "anonymousId": "a1",
        "messageId": "m1",
        "context": {"page": {"path": "/a", "title": ""}},
        "properties": {"a": {"b": "1"}},
    }
    assert house.post(f"/pixel/v1/page?writeKey={KEY}&name=&a=1&a.b=2&{'c.' * 5_000}=3", b"", "GET").status == 200
    assert json.loads(house.payloads()[1])["name"] == "Unknown Page"
    assert house.post("/pixel/v1/track?writeKey=x", b"", "GET").status == 401


def test_segments_browser_sdk_gets_its_settings(house: Any) -> None:
    """The document names the key, this host and the protocol in front of it; a page may read it, and HEAD it."""
    headers = {"host": "events.example:8443", "x_forwarded_proto": "https", "origin": "https://shop.example"}
    reply = house.post(f"/v1/projects/{KEY}/settings", b"", "GET", **headers)
    segment = json.loads(reply.body)["integrations"]["Segment.io"]
    assert segment["apiKey"] == KEY
    assert (segment["protocol"], segment["apiHost"]) == ("https", "events.example:8443/v1")
    assert dict(reply.headers)["Access-Control-Allow-Origin"] == "https://shop.example"
    assert dict(reply.headers)["Cache-Control"] == "no-store"
    page = {"origin": "https://shop.example"}
    for host, protocol in (("events.example", "https"), ("localhost:8080", "http")):
        answer = house.post(f"/v1/projects/{KEY}/settings", b"", "GET", host=host, **page)
        assert json.loads(answer.body)["integrations"]["Segment.io"]["protocol"] == protocol
    plain = house.post(f"/v1/projects/{KEY}/settings/", b"", "GET", host='x"<y')
    assert json.loads(plain.body)["integrations"]["Segment.io"]["protocol"] == "http"
    assert 'x"' not in plain.body.decode()
    assert house.post(f"/v1/projects/{KEY}/settings", b"", "HEAD").status == 200


def test_a_public_address_wins_over_what_the_request_says(house: Any) -> None:
    """Where people have set how the outside reaches the daemon, the document names that."""
    documents = Documents(house.receiver, public_url="https://bridge.example/courier/")
    reply = documents.reply(b"GET", f"/v1/projects/{KEY}/settings".encode(), {b"host": b"10.0.0.1:8080"}, b"")
    assert reply is not None
    segment = json.loads(reply.body)["integrations"]["Segment.io"]
    assert (segment["protocol"], segment["apiHost"]) == ("https", "bridge.example/courier/v1")


@pytest.mark.parametrize("path", ["/sourceConfig", "/sourceConfig/"])
def test_rudderstacks_sdks_get_their_source(house: Any, path: str) -> None:
    """The document has what the SDKs check before they start, by Basic or with the key in the query."""
    for query, headers in ((f"?p=npm&v=3.34.1&writeKey={KEY}", {}), ("?p=android", BASIC)):
        reply = house.post(path + query, b"", "GET", **headers)
        source = json.loads(reply.body)["source"]
        assert (source["enabled"], source["destinations"], bool(source["id"])) == (True, [], True)


@pytest.mark.parametrize("path", ["/v1/projects/other/settings", "/sourceConfig/?writeKey=other", "/sourceConfig"])
def test_documents_are_for_those_with_a_key(build_house: Build, path: str) -> None:
    """A wrong key is 401 here, too; while the route is off the SDK is asked to come back."""
    assert build_house().post(path, b"", "GET").status == 401
    assert build_house(routes=frozenset()).post(path, b"", "GET").status == 429
    draining = build_house()
    draining.receiver.drain()
    assert draining.post(path, b"", "GET").status == 503
    assert build_house().post(path, b"", "POST").status == 405


@pytest.mark.parametrize("path", ["/m", "/v1/m"])
def test_how_segments_sdk_fares_is_nobodys_event(build_house: Build, path: str) -> None:
    """What the SDK tells of itself, without a key, is taken and not kept; else the path answers as its others do."""
    house = build_house()
    assert said(house.post(path, b'{"series":[]}', **TEXT)) == SUCCESS
    assert house.post(path, b"{}", authorization="Bearer other").status == 401
    assert house.post(path + "?writeKey=other", b"{}").status == 401
    assert house.post(path, b"", "GET").status == 405
    assert build_house(routes=frozenset()).post(path, b"{}").status == 429
    assert house.spool.appends == 0


@pytest.mark.parametrize("form", [b"[%b,%b]", b'{"batch":[%b,%b],"sentAt":"x"}'])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_batch_signed_over_its_first_element(build_house: Build, form: bytes, *, is_packed: bool) -> None:
    """Segment signs a batch's first element alone; a setting admits that, else the answer says what helps."""
    first = encoded(TRACK)
    body = form % (first, encoded(OTHER))
    signature = hmac.new(KEY.encode(), first, hashlib.sha1).hexdigest()
    headers = {"x_signature": signature}
    if is_packed:
        body, headers = gzip.compress(body), headers | {"content_encoding": "gzip"}
    refused = build_house().post("/inbound/segment", body, **headers)
    assert refused.status == 429
    assert "Bearer or Basic" in json.loads(refused.body)["error"]
    assert "FORWARDER_SEGMENT_SIGNATURE" in json.loads(refused.body)["error"]
    admitted = build_house(segment_signs_first=True)
    assert admitted.post("/inbound/segment", body, **headers).status == 202
    assert len(admitted.spool.kept) == 2


@pytest.mark.parametrize("body", [b"[]", b"{}", b"", b"[1", b"rubbish", b'{"batch":7}', b"[7,8]"])
def test_a_first_element_that_is_not_there_proves_nothing(build_house: Build, body: bytes) -> None:
    """A signature of nothing, or of something else, opens no batch."""
    house = build_house(segment_signs_first=True)
    signature = hmac.new(KEY.encode(), b"other", hashlib.sha1).hexdigest()
    assert house.post("/inbound/segment", body, x_signature=signature).status == 429


@pytest.mark.parametrize("packed", [b"", b"rubbish", gzip.compress(b"x")[:-3], gzip.compress(b"0" * 200_000)])
def test_an_empty_signature_opens_nothing(house: Any, sign: Callable[..., str], packed: bytes) -> None:
    """A signature is compared with bytes that arrived, never with the nothing that a broken body unpacks to."""
    reply = house.post("/webhooks/courier", packed, courier_signature=sign(b""), content_encoding="gzip")
    assert reply.status == (200 if not packed else 429)
    empty = hmac.new(KEY.encode(), b"", hashlib.sha1).hexdigest()
    reply = house.post("/inbound/segment", packed or b"x", x_signature=empty, content_encoding="gzip")
    assert reply.status == 429


# What tells a resend from another event: one without any of them is always new.
IDENTIFYING = {"messageId", "timestamp", "originalTimestamp"}


def transports(event: Json) -> list[tuple[str, Json, dict[str, str]]]:
    """Return how SDKs of all families would hand this event over."""
    kind, batch = event["type"], {"batch": [event], "sentAt": "2026-11-28T20:50:17.144Z"}
    return [
        (f"/v1/{kind}", event, BASIC),
        (f"/v1/{kind[0]}", event | {"writeKey": KEY}, TEXT),
        (f"/{kind[0]}", event | {"writeKey": KEY}, BASIC | TEXT),
        (f"/beacon/v1/{kind}?writeKey={KEY}", event, TEXT),
        ("/v1/batch", batch, BASIC),
        ("/v1/import/", batch | {"writeKey": KEY}, {}),
        ("/b", batch | {"writeKey": KEY}, TEXT),
        (f"/beacon/v1/batch?writeKey={KEY}", batch, TEXT),
    ]


def test_a_sample_is_one_event_by_whichever_transport_it_comes(build_house: Build) -> None:
    """An event that a site sends twice, once by each of two SDKs or once more by its beacon, is one event."""
    tried = 0
    for case in CALLS:
        body = case["body"]
        inside = body.get("batch", body) if isinstance(body, dict) else body
        for event in inside if isinstance(inside, list) else [inside]:
            if not (isinstance(event, dict) and event.get("type") in CALL_TYPES and event.keys() & IDENTIFYING):
                continue
            house = build_house()
            for path, sent, headers in transports(event):
                assert house.post(path, encoded(sent), **headers).status == 200, (case["name"], path)
            assert len(house.spool.kept) == 1, case["name"]
            tried += 1
    assert tried > 90
