"""The stand-in gateway behaves as the real one was read and seen to behave."""

import asyncio
import base64
import gzip
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stand_ins.behaviour import LOGIN_PAGE, MOVED, UNAVAILABLE, WRONG_KEY, CutsOff, Dawdles, Hangs, HangsUp, Says
from stand_ins.data_plane import DataPlane
from stand_ins.gateway_rules import REQUEST_BYTES_MAX, Refusal

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "gateway_responses.json").read_text())
ANSWERS: dict[str, dict[str, Any]] = {case["name"]: case for case in VECTORS}
AUTH = {"Authorization": "Basic " + base64.b64encode(b"stand-in-write-key:").decode()}
TRACK = {"type": "track", "userId": "u1", "event": "Message Sent", "messageId": "m1"}


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    """A stand-in gateway that listens."""
    async with DataPlane() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that follows no redirect by itself."""
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    http: aiohttp.ClientSession,
    url: str,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> tuple[int, str, str]:
    """Post bytes; return status, text and content type."""
    async with http.post(
        url, data=io.BytesIO(body), headers=AUTH if headers is None else headers, allow_redirects=False
    ) as response:
        return response.status, await response.text(), response.headers.get("Content-Type", "")


def batch(*events: object) -> bytes:
    """Wrap events as `/v1/batch` takes them."""
    return json.dumps({"batch": events}).encode()


GATEWAY_CASES = [
    ("ok", batch(TRACK), AUTH),
    ("ok_duplicate_message_id", batch(TRACK, TRACK), AUTH),
    ("invalid_json", b"", AUTH),
    ("invalid_json", b'{"batch":[', AUTH),
    ("invalid_json", b'{"batch":[{"userId":"u","x":NaN}]}', AUTH),
    ("invalid_json", b'{"batch":[{"userId":"u","x":-Infinity}]}', AUTH),
    ("not_a_rudder_event", batch(TRACK, 7), AUTH),
    ("no_ids", batch(TRACK, {"type": "track"}), AUTH),
    ("no_ids", batch({"type": "track", "userId": " \u200b\u00a0"}), AUTH),
    ("empty_batch", b"{}", AUTH),
    ("empty_batch", b"[]", AUTH),
    ("empty_batch", b'{"batch":[]}', AUTH),
    ("no_write_key", batch(TRACK), {}),
    ("no_write_key", batch(TRACK), {"Authorization": "Bearer stand-in-write-key"}),
    ("no_write_key", batch(TRACK), {"Authorization": "Basic ???"}),
    ("no_write_key", batch(TRACK), {"Authorization": "Basic " + base64.b64encode(b":x").decode()}),
    ("invalid_write_key", batch(TRACK), {"Authorization": "Basic " + base64.b64encode(b"other:").decode()}),
    ("too_large", batch({"userId": "u", "x": "y" * REQUEST_BYTES_MAX}), AUTH),
    ("no_ids", batch({"x": "y" * REQUEST_BYTES_MAX}), AUTH),
    ("body_read_failed", b"no gzip at all", AUTH | {"Content-Encoding": "gzip"}),
    ("body_read_failed", gzip.compress(batch(TRACK))[:-9], AUTH | {"Content-Encoding": "gzip"}),
]


@pytest.mark.parametrize(("name", "body", "headers"), GATEWAY_CASES, ids=range(len(GATEWAY_CASES)))
async def test_every_answer_has_the_gateways_own_status_text_and_type(
    plane: DataPlane, http: aiohttp.ClientSession, name: str, body: bytes, headers: dict[str, str]
) -> None:
    """A body gets exactly the status and text that the gateway has for it, newline included."""
    expected = ANSWERS[name]

    status, text, content_type = await post(http, f"{plane.url}/v1/batch", body, headers)

    assert (status, text) == (expected["status"], expected["body"])
    assert content_type == expected["headers"]["Content-Type"]
    assert plane.stored == (json.loads(body)["batch"].__len__() if status == 200 else 0)


async def test_a_disabled_source_answers_404(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """A source that is switched off has its own text."""
    plane.disabled_keys.add("stand-in-write-key")

    status, text, _ = await post(http, f"{plane.url}/v1/batch", batch(TRACK))

    assert (status, text) == (404, ANSWERS["source_disabled"]["body"])


async def test_a_used_up_rate_limit_answers_429_and_comes_before_the_size(http: aiohttp.ClientSession) -> None:
    """Events are counted, not requests, and an oversize batch over the limit is a 429."""
    async with DataPlane(rate_limit_events=2) as plane:
        first = await post(http, f"{plane.url}/v1/batch", batch(TRACK, TRACK))
        second = await post(http, f"{plane.url}/v1/batch", batch({"userId": "u", "x": "y" * REQUEST_BYTES_MAX}))

    assert first[:2] == (200, "ok")
    assert second[:2] == (429, ANSWERS["rate_limited"]["body"])


async def test_exactly_the_limit_passes(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """4,096,000 bytes pass, packed or not; one more does not."""
    frame = len(batch({"userId": "u", "type": "track", "x": ""}))
    fits = batch({"userId": "u", "type": "track", "x": "y" * (REQUEST_BYTES_MAX - frame)})

    packed = await post(http, f"{plane.url}/v1/batch", gzip.compress(fits, 1), AUTH | {"Content-Encoding": "gzip"})
    over = await post(http, f"{plane.url}/v1/batch", fits + b" ")

    assert (packed[0], over[0]) == (200, 413)


async def test_a_single_endpoint_overwrites_the_type(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """`/v1/identify` stores an identify, whatever the body calls itself."""
    status, _, _ = await post(http, f"{plane.url}/v1/identify", json.dumps(TRACK).encode())

    assert status == 200
    assert plane.events[0]["type"] == "identify"
    assert (await post(http, f"{plane.url}/v1/identify", b"[1]"))[:2] == (
        400,
        ANSWERS["not_a_rudder_event"]["body"],
    )


async def test_stored_events_carry_the_gateways_own_fields(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """A rudderId and receivedAt are always set, a missing or odd messageId is replaced, a good one trimmed."""
    events: list[object] = [
        {"type": "track", "userId": "identified_user_id", "anonymousId": "anonymousId_1", "messageId": " m\u200b1 "},
        {"type": "track", "userId": 0, "messageId": 7},
    ]
    await post(http, f"{plane.url}/v1/batch", batch(*events))

    first, second = plane.events
    assert first["rudderId"] == "e4cab80e-2f0e-4fa2-87e0-3a4af182634c"
    assert first["messageId"] == "m1"
    assert first["receivedAt"].endswith("Z")
    assert len(second["messageId"]) == 36


async def test_an_object_as_batch_counts_as_one_element(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """`batch` may be an object."""
    assert (await post(http, f"{plane.url}/v1/batch", json.dumps({"batch": TRACK}).encode()))[:2] == (200, "ok")
    assert plane.stored == 1


async def test_odd_text_is_stored_as_the_gateway_would(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """Of duplicate keys the first wins; lone surrogates and broken UTF-8 become U+FFFD."""
    body = b'{"batch":[{"type":"track","userId":"a","userId":"b","s":"\\ud800","t":"\xff","e":"\\ud83d\\ude80"}]}'
    await post(http, f"{plane.url}/v1/batch", body)

    event = plane.events[0]
    assert (event["userId"], event["s"], event["t"], event["e"]) == ("a", "\ufffd", "\ufffd", "\U0001f680")


@pytest.mark.parametrize(
    "event",
    [
        {"userId": "u"},
        {"userId": "u", "type": 3},
        {"userId": "u", "type": "unheard"},
        {"userId": "u", "type": "track", "integrations": None},
        {"userId": "u", "type": "track", "integrations": []},
        {"userId": "u", "type": "track", "integrations": {"All": None}},
    ],
    ids=["no type", "number as type", "unknown type", "null integrations", "list integrations", "null All"],
)
async def test_what_is_lost_behind_an_ok_is_not_counted_as_stored(
    plane: DataPlane, http: aiohttp.ClientSession, event: dict[str, object]
) -> None:
    """The gateway says `ok` to some events and loses them: the stand-in says so."""
    assert (await post(http, f"{plane.url}/v1/batch", batch(event)))[:2] == (200, "ok")
    assert (plane.stored, len(plane.vanished)) == (0, 1)


async def test_very_deep_nesting_wedges_the_source(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """5,000 levels are taken with `ok` and then stop everything."""
    deep = b'{"batch":[{"type":"track","userId":"u","x":' + b"[" * 6000 + b"]" * 6000 + b"}]}"

    assert (await post(http, f"{plane.url}/v1/batch", deep))[:2] == (200, "ok")
    assert plane.is_wedged


async def test_wrong_verbs_and_paths(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """405 has no body and says what is allowed; unknown paths, a trailing slash too, are 404."""
    async with http.get(f"{plane.url}/v1/batch") as response:
        assert (response.status, await response.text(), response.headers["Allow"]) == (405, "", "POST")
    async with http.post(f"{plane.url}/health") as response:
        assert response.status == 405
    async with http.get(f"{plane.url}/health") as response:
        assert (await response.json(content_type=None))["server"] == "UP"
    for path in ("/v1/batch/", "/v2/batch", "/v1/nothing"):
        assert (await post(http, f"{plane.url}{path}", batch(TRACK)))[:2] == (404, ANSWERS["unknown_path"]["body"])


async def test_a_poison_event_refuses_its_whole_batch(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """All or nothing: one culprit, and nothing of its batch is stored."""
    plane.poison = lambda event: Refusal(status=400, text="no") if event["userId"] == "bad" else None

    refused = await post(http, f"{plane.url}/v1/batch", batch(TRACK, {"type": "track", "userId": "bad"}))
    taken = await post(http, f"{plane.url}/v1/batch", batch(TRACK))

    assert (refused[0], taken[0], plane.stored) == (400, 200, 1)


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [(UNAVAILABLE, 503), (WRONG_KEY, 401), (LOGIN_PAGE, 200), (MOVED, 302), (Says(status=429), 429)],
    ids=["503", "401", "login page", "302", "429"],
)
async def test_scripted_answers_store_nothing_and_end_when_healed(
    plane: DataPlane, http: aiohttp.ClientSession, behaviour: Says, status: int
) -> None:
    """What stands is played for every request until it is healed."""
    plane.script.behave(behaviour)
    answers = [(await post(http, f"{plane.url}/v1/batch", batch(TRACK)))[0] for _ in range(2)]
    plane.script.heal()
    answers.append((await post(http, f"{plane.url}/v1/batch", batch(TRACK)))[0])

    assert answers == [status, status, 200]
    assert (plane.stored, plane.requests) == (1, 3)


@pytest.mark.parametrize(
    ("behaviour", "stored"),
    [
        (HangsUp(), 0),
        (HangsUp(takes_effect=True), 1),
        (Hangs(seconds=0.05), 0),
        (Hangs(seconds=0.05, takes_effect=True), 1),
        (CutsOff(), 1),
    ],
    ids=["hangs up", "hangs up after storing", "hangs", "hangs after storing", "cuts the answer off"],
)
async def test_no_answer_may_hide_an_effect(
    plane: DataPlane, http: aiohttp.ClientSession, behaviour: HangsUp | Hangs | CutsOff, stored: int
) -> None:
    """A request without a whole answer was stored or not, as the script says, and only that one request."""
    plane.script.once(behaviour)

    with pytest.raises(aiohttp.ClientError):
        await post(http, f"{plane.url}/v1/batch", batch(TRACK))
    assert plane.stored == stored
    assert (await post(http, f"{plane.url}/v1/batch", batch(TRACK)))[0] == 200
    assert plane.duplicates == stored


async def test_a_dawdling_gateway_answers_late(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """Slow is not wrong."""
    plane.script.once(Dawdles(seconds=0.05))
    started = asyncio.get_running_loop().time()

    assert (await post(http, f"{plane.url}/v1/batch", batch(TRACK)))[0] == 200
    assert asyncio.get_running_loop().time() - started >= 0.05


async def test_a_refusing_gateway_comes_back_on_the_same_port(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """Nothing listens while it refuses, hanging requests are dropped, and the URL stays."""
    url = plane.url
    plane.script.once(Hangs())
    hanging = asyncio.create_task(post(http, f"{url}/v1/batch", batch(TRACK)))
    assert await plane.wait_for_requests(1, timeout_s=60)
    assert not await plane.wait_for_requests(2, timeout_s=0.01)
    await plane.refuse()
    await plane.refuse()

    with pytest.raises(aiohttp.ClientError):
        await hanging
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(http, f"{url}/v1/batch", batch(TRACK))
    await plane.listen()
    await plane.listen()
    assert plane.url == url
    assert (await post(http, f"{url}/v1/batch", batch(TRACK)))[0] == 200


async def test_waiting_for_events_is_bounded(plane: DataPlane, http: aiohttp.ClientSession) -> None:
    """`wait_for` tells whether the events came in time."""
    waiting = asyncio.create_task(plane.wait_for(1, timeout_s=60))
    await post(http, f"{plane.url}/v1/batch", batch(TRACK))

    assert await waiting
    assert not await plane.wait_for(2, timeout_s=0.01)


async def test_an_observer_sees_every_stored_event_and_memory_is_bounded(http: aiohttp.ClientSession) -> None:
    """`events_max` bounds what is kept, not what is counted or told."""
    told: list[str] = []
    async with DataPlane(events_max=1) as plane:
        plane.on_stored = lambda event: told.append(event["messageId"])
        await post(http, f"{plane.url}/v1/batch", batch(TRACK, TRACK | {"messageId": "m2"}))

        assert (told, plane.stored, len(plane.events)) == (["m1", "m2"], 2, 1)
