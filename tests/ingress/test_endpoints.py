"""The endpoints, judged by headers and body bytes alone: every row of the contract, and hostile bodies."""

import base64
import gzip
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import thread_time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.ingress.admission import Admission, EndpointSettings
from forwarder.ingress.endpoints import ENDPOINTS
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.replies import Reply
from forwarder.model import RouteName

VECTORS = Path(__file__).parents[1] / "vectors"
WEBHOOKS = json.loads((VECTORS / "courier_webhooks.json").read_text("utf-8"))
CALLS = json.loads((VECTORS / "rudderstack_events.json").read_text("utf-8"))

NOW_MS = 1_767_225_640_123
BUS = {"authorization": "Bearer key-of-the-bus"}
KEY = {"authorization": "Bearer key-of-the-source"}
BASIC = {"authorization": "Basic " + base64.b64encode(b"key-of-the-source:").decode()}
BAD_KEY = {"authorization": "Bearer key-of-somebody"}
WEBHOOK = b'{"type":"message:updated","data":{"id":"1-a","status":"SENT","sent":1767225640000}}'
CALL = b'{"type":"track","event":"Order","userId":"u1","messageId":"m1"}'
SETTINGS = EndpointSettings(
    routes=frozenset(RouteName),
    webhook_secrets=(),
    events_keys=(),
    inbound_keys=("key-of-the-source",),
    body_bytes_max=1_000,
    signature_age_max_s=1,
)
PLAIN = "text/plain; charset=utf-8"
BATCH_CUT = gzip.compress(CALL)[:-9]

Sign = Callable[..., str]
Build = Callable[..., Any]


def key_for(path: str) -> dict[str, str]:
    """Return headers that open an endpoint that asks for a key."""
    return BUS if path == "/events" else KEY


def answer(reply: Reply) -> Any:
    """Return the JSON that was answered."""
    assert reply.content_type == "application/json"
    return json.loads(reply.body)


def header_of(reply: Reply, name: str) -> str | None:
    """Return one header of an answer."""
    return dict(reply.headers).get(name)


def deep(levels: int) -> bytes:
    """Return an object that is nested so deeply."""
    return b'{"type":"track","userId":"u","properties":' + b"[" * levels + b"]" * levels + b"}"


# --- who is turned away, and how ---

# One path of each kind, and what it answers: to no credential, to a wrong one, while the spool is full, while its route
# is off, to another method, to a body that does not unpack. None: it does not look at a body.
TABLE = {
    "/webhooks/courier": (401, 429, 503, 503, 429, 429),
    "/events": (401, 401, 503, 503, 405, 503),
    "/inbound/rudderstack": (401, 429, 429, 429, 429, 429),
    "/inbound/segment": (401, 429, 429, 429, 429, 429),
    "/v1/batch": (401, 401, 429, 429, 405, 503),
    "/v1/track": (401, 401, 429, 429, 405, 503),
    "/b": (401, 401, 429, 429, 405, 503),
    "/v1/t": (401, 401, 429, 429, 405, 503),
    "/beacon/v1/batch": (401, 401, 429, 429, 405, 503),
    "/pixel/v1/track": (401, 401, 429, 429, 405, None),
}
SIGNED = "/webhooks/courier"
KEYED = [path for path in TABLE if path != SIGNED]
WITH_BODY = [path for path in KEYED if TABLE[path][5]]
BATCH = b'{"batch":[' + CALL + b"]}"


def post(house: Any, path: str, **headers: str) -> Reply:
    """Send a batch with the method that the path takes."""
    reply: Reply = house.post(path, BATCH, "GET" if path.startswith("/pixel") else "POST", **headers)
    return reply


@pytest.mark.parametrize("path", TABLE)
def test_who_is_turned_away_and_how(build_house: Build, sign: Sign, path: str) -> None:
    """Every path answers as the table says, with `Retry-After` on each 429 and 503, and stores nothing."""
    house = build_house()
    good = key_for(path) | {"courier_signature": sign(BATCH)}
    missing, wrong, full, off, method, corrupt = TABLE[path]
    wrong_signature = {"courier_signature": sign(BATCH, secret="other")}
    replies = [(missing, post(house, path)), (wrong, post(house, path, **BAD_KEY, **wrong_signature))]
    replies.append((method, house.post(path, BATCH, "DELETE", **good)))
    if corrupt is not None:
        gzipped = BATCH_CUT if path != SIGNED else b"rubbish"
        replies.append((corrupt, house.post(path, gzipped, content_encoding="gzip", **good)))
    house.spool.refusal = SpoolFull("disk", retry_after_s=7)
    replies.append((full, post(house, path, **good)))
    assert header_of(replies[-1][1], "Retry-After") == "7"
    house.spool.refusal = SpoolClosed("shut")
    replies.append((503, post(house, path, **good)))
    house.receiver.drain()
    replies += [(503, post(house, path)), (503, post(house, path, **BAD_KEY)), (503, post(house, path, **good))]
    assert sum(house.rejections().values()) == len(replies)
    without = build_house(routes=frozenset())
    replies += [(off, post(without, path, **good)), (off, post(without, path))]

    assert [reply.status for _, reply in replies] == [status for status, _ in replies]
    for _, reply in replies:
        assert bool(header_of(reply, "Retry-After")) is (reply.status in (429, 503))
    assert not house.spool.kept


@pytest.mark.parametrize("path", KEYED)
def test_what_is_no_credential_is_401(house: Any, path: str) -> None:
    """No credential of its form is the one mistake that is refused for good."""
    headers = ("", "garbage", "Bearer ", "Basic ", "Basic !!", "Basic Ojp4", "Digest x")
    assert {header: post(house, path, authorization=header).status for header in headers} == dict.fromkeys(headers, 401)
    assert house.spool.appends == 0


@pytest.mark.parametrize("header", ["", "garbage", "t=1", "signature=00"])
def test_what_is_no_signature_is_401(house: Any, header: str) -> None:
    """A webhook that was made without a secret is refused for good."""
    assert house.post(SIGNED, WEBHOOK, courier_signature=header).status == 401


@pytest.mark.parametrize("kind", ["secret", "body", "old", "future"])
def test_a_signature_of_its_form_that_does_not_hold(house: Any, sign: Sign, kind: str) -> None:
    """A rotated secret or a wrong clock costs nothing: Courier is asked to come back in a minute."""
    header = {
        "secret": sign(WEBHOOK, secret="other"),
        "body": sign(WEBHOOK + b" "),
        "old": sign(WEBHOOK, at_ms=NOW_MS - 93_600_001),
        "future": sign(WEBHOOK, at_ms=NOW_MS + 3_600_000),
    }[kind]
    reply = house.post("/webhooks/courier", WEBHOOK, courier_signature=header)
    assert (reply.status, header_of(reply, "Retry-After")) == (429, "60")
    assert answer(reply)["error"]
    reason = "signature_outside_age" if kind in ("old", "future") else "signature_mismatch"
    assert house.rejections() == {("/webhooks/courier", reason): 1}


@pytest.mark.parametrize(
    ("change", "path", "status"),
    [
        ({"webhook_secrets": ()}, "/webhooks/courier", 503),
        ({"webhook_secrets": ("",)}, "/webhooks/courier", 503),
        ({"events_keys": ()}, "/events", 503),
        ({"inbound_keys": ()}, "/inbound/segment", 429),
        ({"inbound_keys": ("",)}, "/v1/track", 429),
        ({"routes": frozenset({RouteName.COURIER_TO_RUDDERSTACK})}, "/v1/track", 429),
    ],
    ids=str,
)
def test_an_endpoint_without_its_secret_is_off(
    build_house: Build, change: dict[str, Any], path: str, status: int
) -> None:
    """An endpoint whose secret is not set lets nobody in, and refuses nobody for good."""
    house = build_house(**change)
    reply = house.post(path, CALL, authorization="Bearer x", courier_signature="t=1,signature=" + "0" * 64)
    assert reply.status == status


def test_one_route_off_leaves_the_other_on(build_house: Build, sign: Sign) -> None:
    """A route that is off takes its own endpoints along, and no other."""
    house = build_house(routes=frozenset({RouteName.COURIER_TO_RUDDERSTACK}))
    assert house.post("/webhooks/courier", WEBHOOK, courier_signature=sign(WEBHOOK)).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/x", "/v1/batch/x", "/events//", "/Events", "/metrics", "", "*", "/%2e%2e/%00", "http://x"]
)
def test_an_unknown_path_is_404(house: Any, path: str) -> None:
    """What is no endpoint is not there, and all such paths are one in the metric."""
    assert house.post(path, CALL, **KEY).status == 404
    assert house.rejections() == {("other", "path_unknown"): 1}


@pytest.mark.parametrize("form", ["%s/", "%s?x=1", "http://elsewhere:1%s", "HTTPS://elsewhere%s/?x=1#f"])
def test_the_ways_to_write_a_target(build_house: Callable[..., Any], sign: Sign, form: str) -> None:
    """A slash or a query that was pasted along makes no difference, nor does an absolute target, on any path."""
    for path in ENDPOINTS:
        house, headers = build_house(), {"courier_signature": sign(BATCH), **key_for(path)}
        reply = post(house, path, **headers)
        again = house.post(form % path, BATCH, "GET" if "pixel" in path else "POST", **headers)
        assert reply.status == again.status in (200, 202), path


@pytest.mark.parametrize("path", ["/webhooks/courier", "/events", "/inbound/segment", "/v1/track"])
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_put_and_patch_are_taken_as_post(house: Any, sign: Sign, path: str, method: str) -> None:
    """A destination's method setting makes no difference."""
    reply = house.post(path, CALL, method, courier_signature=sign(CALL), **key_for(path))
    assert reply.status in (200, 202)
    assert len(house.spool.kept) == 1


@pytest.mark.parametrize("path", KEYED)
def test_another_method_names_those_that_are_taken(house: Any, path: str) -> None:
    """Whoever sends another verb is told which are good."""
    reply = house.post(path, BATCH, "DELETE", **key_for(path))
    expected = "GET" if path.startswith("/pixel") else "PATCH, POST, PUT"
    assert (header_of(reply, "Allow") or expected) == expected


# --- credentials ---


@pytest.mark.parametrize("key", ["retired-key", "key-of-the-source"])
@pytest.mark.parametrize("path", ["/inbound/rudderstack", "/inbound/segment", "/v1/track"])
def test_every_key_of_a_rotation_opens_as_bearer_and_basic(house: Any, key: str, path: str) -> None:
    """Old and new key open during a rotation; the password of Basic is ignored."""
    for value in (
        f"Bearer {key}",
        f"bearer  {key} ",
        "Basic " + base64.b64encode(f"{key}:pass:word".encode()).decode(),
    ):
        assert (house.post(path, CALL, authorization=value)).status in (200, 202)


def test_a_key_outside_ascii_opens(build_house: Build) -> None:
    """Keys are compared as bytes, so that any text can be one."""
    house = build_house(inbound_keys=("schlüssel-🔑",))
    basic = "Basic " + base64.b64encode("schlüssel-🔑:".encode()).decode()
    assert (house.post("/v1/track", CALL, authorization=basic)).status == 200
    assert (house.post("/v1/track", CALL, authorization="Bearer schlüssel-🔑")).status == 200
    assert (house.post("/v1/track", CALL, authorization="Bearer \udcff")).status == 401


def test_keys_of_one_route_do_not_open_the_other(house: Any) -> None:
    """The bus' key opens no inbound endpoint, and the source's key opens no bus."""
    assert (house.post("/events", WEBHOOK, **KEY)).status == 401
    assert (house.post("/inbound/segment", CALL, **BUS)).status == 429


@pytest.mark.parametrize("path", ["/inbound/segment", "/inbound/rudderstack"])
def test_segments_signature_opens_segments_door_alone(house: Any, path: str) -> None:
    """`x-signature` over the raw body, made with one of the keys, is a credential for Segment only."""
    signature = hmac.new(b"key-of-the-source", CALL, hashlib.sha1).hexdigest()
    reply = house.post(path, CALL, x_signature=signature)
    assert reply.status == (202 if path.endswith("segment") else 401)


@pytest.mark.parametrize(
    ("signature", "status"),
    [("0" * 40, 429), ("0" * 39, 401), ("A" * 40, 401), ("é" * 40, 401), ("", 401)],
)
def test_segments_signature_that_does_not_hold(house: Any, signature: str, status: int) -> None:
    """One of its form that matches no key is turned away for later, rubbish for good."""
    reply = house.post("/inbound/segment", CALL, x_signature=signature)
    assert reply.status == status
    assert house.spool.appends == 0


def test_segments_signature_beside_a_key(house: Any) -> None:
    """Either of the two credentials is enough."""
    signature = hmac.new(b"retired-key", CALL, hashlib.sha1).hexdigest()
    assert (house.post("/inbound/segment", CALL, x_signature="rubbish", **KEY)).status == 202
    assert (house.post("/inbound/segment", CALL, x_signature=signature, **BAD_KEY)).status == 202
    assert (house.post("/inbound/segment", CALL, x_signature="rubbish", **BAD_KEY)).status == 429


def test_secrets_are_swapped_in_the_running_receiver(house: Any, sign: Sign) -> None:
    """Rotated secrets count at once, the old ones no more, and a daemon that drains goes on draining."""
    house.receiver.set_up(replace(SETTINGS, inbound_keys=("new-key",), webhook_secrets=("new-secret",)))
    assert house.post("/v1/track", CALL, **KEY).status == 401
    assert house.post("/v1/track", CALL, authorization="Bearer new-key").status == 200
    assert house.post(SIGNED, WEBHOOK, courier_signature=sign(WEBHOOK)).status == 429
    assert house.post(SIGNED, WEBHOOK, courier_signature=sign(WEBHOOK, secret="new-secret")).status == 200
    house.receiver.drain()
    house.receiver.set_up(SETTINGS)
    assert house.post("/v1/track", CALL, **KEY).status == 503


# --- /webhooks/courier ---


def test_every_signed_webhook_is_kept_as_it_came(build_house: Callable[..., Any], sign: Sign) -> None:
    """Whatever Courier signs is taken, to the byte."""
    for case in WEBHOOKS:
        house, body = build_house(), json.dumps(case["body"]).encode()
        reply = house.post("/webhooks/courier", body, courier_signature=sign(body))
        assert (reply.status, answer(reply)) == (200, {"accepted": 1, "duplicates": 0}), case["name"]
        assert house.payloads() == [body], case["name"]
        assert house.spool.kept[0].source == "webhook"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b'{"a":NaN}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"a":"\\ud800"}',
        deep(5000),
    ],
    ids=lambda body: repr(body[:16]),
)
def test_a_signed_body_that_is_no_object_is_kept_too(house: Any, sign: Sign, body: bytes) -> None:
    """Courier would give up on a 4xx; what it signed can be looked at instead."""
    reply = house.post("/webhooks/courier", body, courier_signature=sign(body))
    assert reply.status == 200
    assert house.payloads() == [body]


def test_a_resent_webhook_is_a_duplicate(house: Any, sign: Sign) -> None:
    """A resend is answered 2xx and counted, whatever its signature's time."""
    house.post("/webhooks/courier", WEBHOOK, courier_signature=sign(WEBHOOK))
    reply = house.post("/webhooks/courier", WEBHOOK, courier_signature=sign(WEBHOOK, at_ms=NOW_MS - 60_000))
    assert answer(reply) == {"accepted": 0, "duplicates": 1}


@pytest.mark.parametrize("over", ["packed", "unpacked"])
def test_a_packed_webhook_may_be_signed_either_way(house: Any, sign: Sign, over: str) -> None:
    """Courier's signature is tried on the packed bytes, then on the unpacked ones; unpacked is kept."""
    packed = gzip.compress(WEBHOOK)
    header = sign(packed if over == "packed" else WEBHOOK)
    reply = house.post("/webhooks/courier", packed, courier_signature=header, content_encoding="gzip")
    assert reply.status == 200
    assert house.payloads() == [WEBHOOK]


@pytest.mark.parametrize("body", [WEBHOOK, gzip.compress(WEBHOOK)[:-9], b""], ids=["plain", "cut", "empty"])
def test_a_signed_body_that_does_not_unpack_is_kept(house: Any, sign: Sign, body: bytes) -> None:
    """What is proved by its packed bytes is not lost because it does not unpack."""
    reply = house.post("/webhooks/courier", body, courier_signature=sign(body), content_encoding="gzip")
    assert reply.status == 200
    assert house.payloads() == [body]


@pytest.mark.parametrize("body", [gzip.compress(WEBHOOK), b"rubbish", gzip.compress(b"0" * 90_000)])
def test_an_unproved_packed_webhook_is_turned_away_for_later(house: Any, sign: Sign, body: bytes) -> None:
    """Whatever is packed in it, a body that no secret signed is a mismatch."""
    reply = house.post("/webhooks/courier", body, courier_signature=sign(b"other"), content_encoding="gzip")
    assert reply.status == 429


def test_a_signed_gzip_bomb_is_413(house: Any, sign: Sign) -> None:
    """Unpacking stops at the body limit, whatever the ratio, signed or not."""
    for size, status in ((100_000, 200), (100_001, 413)):
        bomb = gzip.compress(b" " * size)
        reply = house.post("/webhooks/courier", bomb, courier_signature=sign(bomb), content_encoding="gzip")
        assert reply.status == status


# --- /events ---


@pytest.mark.parametrize(
    ("body", "headers", "count"),
    [
        (WEBHOOK, {}, 1),
        (b"[" + WEBHOOK + b"]", {}, 1),
        (b" [" + WEBHOOK + b"," + WEBHOOK.replace(b"SENT", b"OPENED") + b"]\n", {}, 2),
        (WEBHOOK + b"\n", {}, 1),
        (WEBHOOK + b"\r\n\r\n" + WEBHOOK.replace(b"SENT", b"OPENED") + b"\r\n", {}, 2),
        (WEBHOOK + b"\n" + WEBHOOK, {"content_type": "application/x-ndjson"}, 1),
        (b"\xef\xbb\xbf" + WEBHOOK, {}, 1),
        (b"[]", {}, 0),
    ],
)
def test_events_come_alone_in_an_array_or_a_line_each(
    house: Any, body: bytes, headers: dict[str, str], count: int
) -> None:
    """The three forms are told apart by themselves, packed or not, and one request is one append."""
    reply = house.post("/events", body, **BUS, **headers)
    assert reply.status == 200
    assert answer(reply)["accepted"] == count
    assert "refused" not in answer(reply)
    assert house.spool.appends == (1 if count else 0)
    assert all(envelope.source == "events" for envelope in house.spool.kept)
    again = house.post("/events", gzip.compress(body), content_encoding="gzip", **BUS, **headers)
    assert answer(again)["accepted"] == 0


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"[1," + WEBHOOK + b',"x",null,[]]', [0, 2, 3, 4]),
        (WEBHOOK + b"\n{broken\n7\n", [1, 2]),
        (WEBHOOK + b'\n\n{"a":NaN}\n', [1]),
    ],
)
def test_bad_elements_are_named_by_index(house: Any, body: bytes, refused: list[int]) -> None:
    """Good elements are taken beside bad ones, and the answer says which were bad."""
    reply = house.post("/events", body, **BUS)
    assert answer(reply) == {"accepted": 1, "duplicates": 0, "refused": refused}
    assert house.payloads() == [WEBHOOK]


# --- /inbound ---


@pytest.mark.parametrize("path", ["/inbound/rudderstack", "/inbound/segment"])
def test_a_lone_call_is_answered_as_courier_does(house: Any, path: str) -> None:
    """The answer is 202 with the event's own messageId and nothing else."""
    reply = house.post(path, CALL, **KEY)
    assert (reply.status, answer(reply)) == (202, {"messageId": "m1"})
    assert house.payloads() == [CALL]
    assert house.spool.kept[0].source == path.rpartition("/")[2]
    assert (house.post(path, CALL, **BASIC)).status == 202


def test_a_call_without_message_id_gets_one(house: Any) -> None:
    """A sender that waits for a messageId is given one."""
    reply = house.post("/inbound/segment", b'{"type":"track"}', **KEY)
    assert len(answer(reply)["messageId"]) == 32


@pytest.mark.parametrize(
    "body", [b"[%b,%b,7]", b'{"batch":[%b,%b,7],"sentAt":"x"}', b'{"type":"batch","batch":[%b,%b,7]}']
)
def test_calls_come_in_an_array_or_a_batch(house: Any, body: bytes) -> None:
    """A list is unpacked in its order, and its answer counts."""
    other = CALL.replace(b"m1", b"m2")
    reply = house.post("/inbound/rudderstack", body % (CALL, other), **KEY)
    assert reply.status == 202
    assert answer(reply) == {"messageId": "m1", "accepted": 2, "duplicates": 0, "refused": [2]}
    assert house.payloads() == [CALL, other]
    assert house.spool.appends == 1


@pytest.mark.parametrize("body", [b"[]", b'{"batch":[]}'])
def test_an_empty_list_is_nothing_to_do(house: Any, body: bytes) -> None:
    """A list of no events is taken, and nothing is stored."""
    reply = house.post("/inbound/rudderstack", body, **KEY)
    assert (reply.status, answer(reply)) == (202, {"accepted": 0, "duplicates": 0})
    assert house.spool.appends == 0


@pytest.mark.parametrize("body", [b'{"type":"track","batch":[{}]}', b'{"batch":7}', b'{"batch":{"type":"track"}}'])
def test_a_field_named_batch_does_not_make_a_batch(house: Any, body: bytes) -> None:
    """An event that has a field of that name is one event."""
    assert (house.post("/inbound/segment", body, **KEY)).status == 202
    assert house.payloads() == [body]


def test_every_sample_is_taken(build_house: Callable[..., Any]) -> None:
    """What RudderStack and Segment post is taken, each object of it to the byte."""
    for case in CALLS:
        house, body = build_house(), json.dumps(case["body"]).encode()
        path = {"v1_batch": "/v1/batch", "v1_single": "/v1/track"}.get(case["transport"], "/inbound/rudderstack")
        reply = house.post(path, body, **KEY)
        if case["name"] in ("batch_empty", "batch_key_missing"):
            assert (reply.status, reply.body) == (400, b"empty batch payload\n")
            continue
        assert reply.status in (200, 202), case["name"]
        inside = case["body"].get("batch", case["body"]) if isinstance(case["body"], dict) else case["body"]
        objects = [one for one in (inside if isinstance(inside, list) else [inside]) if isinstance(one, dict)]
        expected = [one | {"type": "track"} if case["transport"] == "v1_single" else one for one in objects]
        keys = {envelope.event_key for envelope in house.spool.kept}
        assert len(keys) == len(house.spool.kept) <= len(objects), case["name"]
        assert all(json.loads(payload) in expected for payload in house.payloads()), case["name"]


# --- /v1 ---


@pytest.mark.parametrize("kind", ["identify", "track", "group", "page", "screen", "alias"])
def test_the_endpoint_names_the_type(house: Any, kind: str) -> None:
    """A single call has the endpoint's type whatever it said, and Segment's short path is the same."""
    body = b'{"type":"other","userId":"u1","n":18446744073709551617}'
    for path in (f"/v1/{kind}", f"/v1/{kind[0]}", f"/{kind[0]}", f"/beacon/v1/{kind}"):
        assert house.post(path, body, **BASIC).status == 200
    stored = json.loads(house.payloads()[0])
    assert stored == {"type": kind, "userId": "u1", "n": 18446744073709551617}
    assert house.spool.kept[0].labels.type == kind


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/import"])
def test_a_batch_is_unpacked_in_order(house: Any, path: str) -> None:
    """Good elements are taken beside bad ones, in order, in one append."""
    first, second = CALL, CALL.replace(b"m1", b"m2")
    reply = house.post(path, b'{"sentAt":"x","batch":[%b,"x",%b]}' % (first, second), **BASIC)
    assert answer(reply) == {"success": True}
    assert house.payloads() == [first, second]
    assert [envelope.partition_key for envelope in house.spool.kept] == ["u1", "u1"]
    assert house.spool.appends == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/batch", b"", 400, b"invalid json\n"),
        ("/v1/batch", b'{"batch":[{"a":NaN}]}', 400, b"invalid json\n"),
        ("/v1/track", b'{"a":', 400, b"invalid json\n"),
        ("/v1/track", b"7", 400, b"event is not a valid rudder event\n"),
        ("/v1/track", b"[{}]", 400, b"event is not a valid rudder event\n"),
        ("/v1/batch", b'{"batch":["x",7]}', 400, b"event is not a valid rudder event\n"),
        ("/v1/batch", b'{"batch":"x"}', 400, b"event is not a valid rudder event\n"),
        ("/v1/batch", b'{"batch":[]}', 400, b"empty batch payload\n"),
        ("/v1/batch", b'{"batch":null}', 400, b"empty batch payload\n"),
        ("/v1/batch", b"{}", 400, b"empty batch payload\n"),
        ("/v1/batch", b'{"batch":{"type":"track"}}', 200, b'{"success":true}'),
        ("/v1/track", b"{}", 200, b'{"success":true}'),
    ],
)
def test_the_gateways_words(house: Any, path: str, body: bytes, status: int, text: bytes) -> None:
    """SDKs are answered in the words, the type and the line ends of RudderStack's gateway, but for the 200."""
    reply = house.post(path, body, **BASIC)
    content_type = "application/json" if status == 200 else PLAIN
    assert (reply.status, reply.body, reply.content_type) == (status, text, content_type)


@pytest.mark.parametrize(
    ("headers", "text"),
    [({}, b"failed to read writekey from header\n"), (BAD_KEY, b"invalid write key\n")],
)
def test_the_gateways_words_for_keys(house: Any, headers: dict[str, str], text: bytes) -> None:
    """An SDK without a key, or with a wrong one, hears what the gateway would say."""
    reply = house.post("/v1/batch", CALL, **headers)
    assert (reply.status, reply.body, reply.content_type) == (401, text, PLAIN)


# --- hostile bodies ---


_SIX_MB = 6_000_000


def repeated(begin: bytes, unit: bytes, end: bytes) -> bytes:
    """Return a large body of many equal parts."""
    return begin + unit * ((_SIX_MB - len(begin) - len(end)) // len(unit)) + end


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            repeated(b'{"batch":[', b'{"event":"x","properties":{"a":[1,2]},"more":"%b"},' % (b"x" * 99), b"{}]}"),
            id="usual events",
        ),
        pytest.param(repeated(b'{"writeKey":"no","batch":[', b'{"event":"x"},', b"{}]}"), id="another key"),
        pytest.param(repeated(b'{"batch":[[', b"{},", b"{}]]}"), id="objects in one element"),
        pytest.param(b"[" * (_SIX_MB // 2) + b"]" * (_SIX_MB // 2), id="nothing but brackets"),
        pytest.param(repeated(b'{"a":"\\ud800","batch":[[', b"[],", b"[]]]}"), id="a lone surrogate"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/batch", "/v1/track"])
def test_a_stranger_holds_nobody_up(build_house: Callable[..., Any], path: str, body: bytes) -> None:
    """Whatever somebody without a key sends, it is refused in steps that let others have a turn."""
    house = build_house(body_bytes_max=_SIX_MB)
    judged = house.routing.judge(b"POST", path.encode(), {})
    steps, longest_s = house.receiver.accept(judged, body), 0.0
    while True:
        began_s = thread_time()
        try:
            next(steps)
        except StopIteration as done:
            reply = done.value
            break
        finally:
            longest_s = max(longest_s, thread_time() - began_s)
    assert reply.status == 401
    assert longest_s < 0.4  # it was 0.6 to 13 s, and is some hundredths


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b'{"a":1,\n "b":}', "line 2, column 6 (byte 13)"),
        (b'{"a":NaN}', "line 1, column 6 (byte 5)"),
        (b'{"a":-Infinity}', "line 1, column 7"),
        (b"{'a':1}", "line 1, column 2"),
        (b'{"a":1}}', "line 1, column 8"),
        (b'{"a":1', "line 1"),
        (b"\xff\xfe{", "line 1, column 1"),
        (b"\x00", "line 1, column 1"),
        (b"secret-word", "line 1, column 1"),
        (deep(5000)[:-1], "byte"),
    ],
)
@pytest.mark.parametrize("path", ["/events", "/inbound/segment"])
def test_what_is_no_json_is_told_where(house: Any, path: str, body: bytes, where: str) -> None:
    """The answer says what is wrong and where, without a word out of the body."""
    reply = house.post(path, body, **key_for(path))
    assert reply.status == 400
    assert where in answer(reply)["error"]
    assert "secret-word" not in answer(reply)["error"]
    assert house.spool.appends == 0


@pytest.mark.parametrize("body", [b"7", b"null", b'"x"', b"[1,2]", b"true"])
@pytest.mark.parametrize("path", ["/events", "/inbound/rudderstack"])
def test_json_without_an_object_is_400(house: Any, path: str, body: bytes) -> None:
    """Elements of which none is an object are refused together."""
    reply = house.post(path, body, **key_for(path))
    assert reply.status == 400
    assert "object" in answer(reply)["error"]


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        (b'{"a":1,"a":2}', b'{"a":1,"a":2}'),
        (b'{"a":"\\ud800","b":1}', '{"a":"\ufffd","b":1}'.encode()),
        (b'{"a":"\xff"}', '{"a":"\ufffd"}'.encode()),
        (b'{"a":1e400}', b'{"a":1e400}'),
        (b'{"a":' + b"9" * 5000 + b"}", b'{"a":' + b"9" * 5000 + b"}"),
        (b'{"a":123456789012345678901234567890}', b'{"a":123456789012345678901234567890}'),
        ('{"ä":"\U0001f511"}'.encode(), '{"ä":"\U0001f511"}'.encode()),
        (b'{"a":"\\u0000"}', b'{"a":"\\u0000"}'),
        (deep(900), deep(900)),
        (deep(5000), deep(5000)),
        (deep(40_000), deep(40_000)),
    ],
    ids=lambda value: repr(value[:24]),
)
@pytest.mark.parametrize("form", [b"%b", b"[%b]", b'{"batch":[%b]}'])
def test_any_object_is_taken(house: Any, body: bytes, stored: bytes, form: bytes) -> None:
    """An object is taken, alone or in company, however odd; what nobody can read is kept unread."""
    good = b'{"type":"track","userId":"u","messageId":"good"}'
    sent = form % (body if form == b"%b" else body + b"," + good)
    reply = house.post("/inbound/segment", sent, **KEY)
    assert reply.status == 202
    assert house.payloads() == ([stored] if form == b"%b" else [stored, good])


def test_a_deep_line_does_not_swallow_the_next(house: Any) -> None:
    """One object a line stays one object a line when one of them is too deep to be read."""
    reply = house.post("/events", deep(5000) + b"\n" + WEBHOOK + b"\n", **BUS)
    assert answer(reply)["accepted"] == 2
    assert house.payloads() == [deep(5000), WEBHOOK]


def test_no_json_beside_a_deep_element_is_400(house: Any) -> None:
    """Also where only brackets could be counted, an element that is no JSON makes the request none."""
    reply = house.post("/events", b"[" + deep(5000) + b',{"a":NaN}]', **BUS)
    assert reply.status == 400
    assert house.spool.appends == 0


def test_by_default_nothing_unique_repeats(house: Any) -> None:
    """Two equal events that carry neither id nor time are two events."""
    receiver = Receiver(SETTINGS, clock=house.clock, reporter=house.reporter)
    kept = set()
    for _ in range(2):
        admission = receiver.admit(
            ENDPOINTS["/v1/track"], b"POST", {b"authorization": b"Bearer key-of-the-source"}, b""
        )
        assert isinstance(admission, Admission)
        with pytest.raises(StopIteration) as done:
            next(receiver.accept(admission, b"{}"))
        kept.add(done.value.value[0].event_key)
    assert len(kept) == 2


def test_too_many_events_are_413(build_house: Build) -> None:
    """The number of events in one request has a limit, so that a body of commas costs no memory."""
    house = build_house(body_bytes_max=10_000_000)
    for body in (b"[" + b"1," * 60_000 + b"1]", b"{}\n" * 60_000, b'{"batch":[' + b"{}," * 60_000 + b"{}]}"):
        path = "/inbound/segment" if body.startswith(b'{"') else "/events"
        assert (house.post(path, body, **key_for(path))).status == 413


def test_many_commas_within_few_events_are_taken(build_house: Build) -> None:
    """The limit counts events, not commas."""
    house = build_house(body_bytes_max=10_000_000)
    body = b'[{"a":[' + b"1," * 60_000 + b"1]},{}]"
    assert answer(house.post("/events", body, **BUS))["accepted"] == 2


@pytest.mark.parametrize("path", WITH_BODY)
def test_gzip_is_taken_everywhere_and_nothing_else(house: Any, path: str) -> None:
    """Every endpoint unpacks gzip, `identity` is no encoding, and every other one is 415."""
    packed = gzip.compress(BATCH)
    for body, said in ((packed, "gzip"), (packed, "GZIP"), (packed, " gzip "), (BATCH, "identity")):
        assert house.post(path, body, content_encoding=said, **key_for(path)).status in (200, 202), said
    for said in ("br", "deflate", "zstd", "gzip, gzip", "x"):
        reply = house.post(path, CALL, content_encoding=said, **key_for(path))
        assert (reply.status, header_of(reply, "Accept-Encoding")) == (415, "gzip"), said


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 429),
        (b"rubbish", 429),
        (CALL, 429),
        (gzip.compress(CALL)[:-1], 429),
        (gzip.compress(CALL)[:5], 429),
        (gzip.compress(CALL) + b"rubbish", 429),
        (zlib.compress(CALL), 429),
        (gzip.compress(CALL) + bytes(512), 202),
        (gzip.compress(CALL[:9]) + gzip.compress(CALL[9:]), 202),
        (gzip.compress(b"") * 100, 429),
        (gzip.compress(b"0" * 100_001), 413),
        (gzip.compress(b'{"a":"' + b"x" * 90_000 + b'"}'), 202),
    ],
)
def test_gzip_that_does_not_unpack(house: Any, body: bytes, status: int) -> None:
    """What may have been cut on its way comes again, members in a row are one body, and only the limit is final."""
    assert house.post("/inbound/segment", body, content_encoding="gzip", **KEY).status == status


def test_a_body_is_taken_up_to_its_limit(house: Any) -> None:
    """The limit holds to the byte, packed and unpacked, declared or not."""
    fits = b'{"a":"' + b"x" * (100_000 - 8) + b'"}'
    assert (house.post("/v1/track", fits, content_length="100000", **KEY)).status == 200
    reply = house.post("/v1/track", fits + b" ", **KEY)
    assert (reply.status, reply.body) == (413, b"request size exceeds max limit\n")
    assert (house.post("/v1/track", b"", content_length="100001", **KEY)).status == 413


def test_keys_are_checked_before_anything_is_unpacked(house: Any) -> None:
    """A stranger's encoding, length and body are not looked at."""
    for headers in ({"content_encoding": "br"}, {"content_length": "999999999"}, {"content_encoding": "gzip"}):
        assert (house.post("/v1/batch", b"rubbish", **BAD_KEY, **headers)).status == 401


def test_what_is_accepted_and_what_is_a_duplicate_is_counted(house: Any) -> None:
    """Unique events and resends are counted per route, once they are on disk."""
    house.post("/v1/batch", b'{"batch":[' + CALL + b"," + CALL + b"]}", **KEY)
    route = RouteName.RUDDERSTACK_TO_COURIER.value
    for name in ("forwarder_events_received_total", "forwarder_duplicates_total"):
        assert house.metrics.registry.get_sample_value(name, {"route": route}) == 1


def test_no_secret_and_no_payload_is_logged(house: Any, sign: Sign) -> None:
    """Whatever is turned away, the log names the endpoint and the reason alone."""
    marker = b'{"userId":"marker-in-payload","x":}'
    for path in TABLE:
        house.post(path, marker, courier_signature=sign(marker), **KEY)
        house.post(path, marker, courier_signature=sign(b"x"), authorization="Bearer marker-in-key")
        house.post(path + "/marker-in-path", marker)
    log = house.log.getvalue()
    assert "request.rejected" in log
    assert not [word for word in ("marker", "key-of", "whsec", "retired") if word in log]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=40)
    | st.text(alphabet='{}[]",:\\ \n0123eE.-truefalsnbatchyp', max_size=40).map(str.encode)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=5), x)
    ).map(lambda value: json.dumps(value).encode()),
    path=st.sampled_from([SIGNED, *WITH_BODY]),
    packed=st.booleans(),
)
def test_no_body_meets_a_bug(build_house: Build, sign: Sign, body: bytes, path: str, *, packed: bool) -> None:
    """Whatever the bytes, a proved sender gets 2xx or a 400 that says why, and what is kept was sent."""
    house = build_house()
    headers = {"content_encoding": "gzip"} if packed else {}
    sent = gzip.compress(body) if packed else body
    reply = house.post(path, sent, courier_signature=sign(sent), **key_for(path), **headers)
    assert reply.status in (200, 202, 400)
    if path == "/webhooks/courier":
        assert house.payloads() == [body]
    if reply.status == 400:
        assert not house.spool.kept
