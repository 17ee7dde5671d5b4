"""The stand-in Courier answers, replays and remembers as Courier's documentation says."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from stand_ins.behaviour import HangsUp
from stand_ins.chaos import Chaos, ChaosRates, Misfortune
from stand_ins.courier_api import BODY_BYTES_MAX, CourierApi
from stand_ins.courier_state import Known, Outcome
from stand_ins.idempotency import DAY_MS

AUTH = {"Authorization": "Bearer pk_test_standin"}


@pytest.fixture
async def api() -> AsyncIterator[CourierApi]:
    """A stand-in Courier where only some automations, journeys and templates exist."""
    known = Known(automations={"welcome"}, journeys={"onboarding", "picky"}, templates={"t1"})
    known.journeys_declining.add("picky")
    async with CourierApi(known=known) as running:
        yield running


async def call(
    api: CourierApi,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """Make one request; return status and decoded body."""
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            method, f"{api.url}{path}", json=body, headers=AUTH | dict(headers or {}), allow_redirects=False
        ) as response,
    ):
        raw = await response.read()
        return response.status, (await response.json() if raw else None)


RUN = {"automation": {"steps": [{"action": "send"}]}, "recipient": "u1"}
CASES: list[tuple[str, str, object, int]] = [
    ("POST", "/profiles/u1", {"profile": {"email": "a@b.example"}}, 200),
    ("POST", "/profiles/u1", {}, 400),
    ("GET", "/profiles/u1", None, 200),
    ("POST", "/automations/welcome/invoke", {"recipient": "u1"}, 200),
    ("POST", "/automations/welcome/invoke", {}, 400),
    ("POST", "/automations/absent/invoke", {"recipient": "u1"}, 404),
    ("POST", "/automations/invoke", RUN, 200),
    ("POST", "/automations/invoke", {"automation": {}}, 400),
    ("POST", "/journeys/onboarding/invoke", {"user_id": "u1"}, 202),
    ("POST", "/journeys/picky/invoke", {"user_id": "u1"}, 422),
    ("POST", "/journeys/absent/invoke", {"user_id": "u1"}, 404),
    ("PUT", "/tenants/t1", {"name": "T"}, 200),
    ("PUT", "/tenants/t1", {"properties": {}}, 400),
    ("GET", "/tenants/t1", None, 404),
    ("PUT", "/users/u1/tenants/t1", None, 204),
    ("PUT", "/lists/l1/subscriptions/u1", None, 204),
    ("DELETE", "/lists/l1/subscriptions/u1", None, 204),
    ("POST", "/send", {"message": {"to": {"user_id": "u1"}, "template": "t1"}}, 202),
    ("POST", "/send", {"message": {"to": [], "content": {}}}, 202),
    ("POST", "/send", {"message": {"to": {"user_id": "u1"}, "template": "absent"}}, 404),
    ("POST", "/send", {"message": {}}, 400),
    ("POST", "/inbound/rudderstack", {"type": "identify", "userId": "u1"}, 202),
    ("POST", "/inbound/segment", {"type": "group", "userId": "u1"}, 202),
    ("POST", "/inbound/segment", {}, 400),
    ("GET", "/messages/absent", None, 404),
    ("GET", "/messages/absent/history", None, 404),
    ("GET", "/automations", None, 200),
    ("GET", "/lists", None, 403),
    ("POST", "/nowhere", {}, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), CASES)
async def test_each_endpoint_answers_as_documented(
    api: CourierApi, method: str, path: str, body: object, status: int
) -> None:
    """Status of every endpoint, and the error's shape: a `type` only from Courier itself."""
    got, answer = await call(api, method, path, body)

    assert got == status
    if status >= 400:
        assert set(answer) == ({"message"} if path == "/nowhere" else {"message", "type"})
    changed = status < 300 and method != "GET"
    assert len(api.state.effects) == (1 if changed else 0)


async def test_a_wrong_key_is_401_and_a_broken_body_400_and_a_huge_one_413(api: CourierApi) -> None:
    """The endpoint is checked first, then the path, then the size, then the JSON."""
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{api.url}/send", headers={"Authorization": "Bearer other"}) as response:
            assert response.status == 401
        async with http.post(f"{api.url}/send", headers=AUTH, data=b"{") as response:
            assert response.status == 400
        async with http.post(f"{api.url}/send", headers=AUTH, data=_chunks()) as response:
            assert response.status == 413


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(BODY_BYTES_MAX // 65_536 + 1):
        yield b" " * 65_536


async def test_profiles_merge(api: CourierApi) -> None:
    """POST merges at the top level."""
    for profile in ({"a": 1, "b": 1}, {"b": 2}):
        await call(api, "POST", "/profiles/u1", {"profile": profile})
    assert (await call(api, "GET", "/profiles/u1"))[1]["profile"] == {"a": 1, "b": 2}


async def test_a_tenants_put_replaces_it(api: CourierApi) -> None:
    """A blind PUT wipes what others set."""
    await call(api, "PUT", "/tenants/t1", {"name": "T", "brand_id": "b"})
    await call(api, "PUT", "/tenants/t1", {"name": "T2"})

    assert await call(api, "GET", "/tenants/t1") == (200, {"id": "t1", "name": "T2"})


async def test_paths_are_decoded_one_segment_at_a_time(api: CourierApi) -> None:
    """An id may hold any character, an encoded slash too."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{api.url}/profiles/a%2Fb%20%C3%B8%40", headers=AUTH, json={"profile": {}}) as response,
    ):
        assert response.status == 200

    assert [effect.user for effect in api.state.effects] == ["a/b ø@"]


async def test_effects_name_their_user_in_order(api: CourierApi) -> None:
    """`effects_of` lists what happened to a user, wherever the request names him."""
    await call(api, "POST", "/profiles/u1", {"profile": {}})
    await call(api, "POST", "/profiles/u2", {"profile": {}})
    await call(api, "POST", "/automations/welcome/invoke", {"recipient": "u1"})
    await call(api, "POST", "/journeys/onboarding/invoke", {"data": {"userId": "u1"}})
    await call(api, "POST", "/inbound/rudderstack", {"type": "track", "anonymousId": "u1"})

    assert [effect.operation for effect in api.state.effects_of("u1")] == [
        "POST /profiles/{user}",
        "POST /automations/{template}/invoke",
        "POST /journeys/{journey}/invoke",
        "POST /inbound/rudderstack",
    ]


async def test_a_repeated_inbound_message_id_is_a_409(api: CourierApi) -> None:
    """`/inbound/*` takes a messageId once."""
    body = {"messageId": "m", "type": "track", "userId": "u1"}

    assert [(await call(api, "POST", "/inbound/segment", body))[0] for _ in range(2)] == [202, 409]
    assert len(api.state.effects) == 1


async def test_a_key_replays_the_first_answer_and_has_one_effect(api: CourierApi) -> None:
    """Same key, same answer, one effect; another key, another effect."""
    path, body = "/automations/welcome/invoke", {"recipient": "u1"}
    first = await call(api, "POST", path, body, {"Idempotency-Key": "k"})
    second = await call(api, "POST", path, body, {"Idempotency-Key": "k"})
    third = await call(api, "POST", path, body, {"Idempotency-Key": "k2"})

    assert first == second != third
    assert (len(api.state.effects), api.replays.replayed) == (2, 1)


async def test_a_stored_500_is_replayed_until_the_key_changes(api: CourierApi) -> None:
    """Courier keeps a 500 too: the same key gets it again without an attempt."""
    api.chaos = Chaos(ChaosRates(error=1), seed=1)
    path, body = "/automations/welcome/invoke", {"recipient": "u1"}
    first = await call(api, "POST", path, body, {"Idempotency-Key": "k"})
    api.chaos = None

    assert (first[0], (await call(api, "POST", path, body, {"Idempotency-Key": "k"}))[0]) == (500, 500)
    assert (await call(api, "POST", path, body, {"Idempotency-Key": "k-1"}))[0] == 200
    assert len(api.state.effects) == 1


async def test_a_failed_validation_is_not_stored(api: CourierApi) -> None:
    """A 400 leaves the key free."""
    path = "/automations/welcome/invoke"

    assert (await call(api, "POST", path, {}, {"Idempotency-Key": "k"}))[0] == 400
    assert (await call(api, "POST", path, {"recipient": "u"}, {"Idempotency-Key": "k"}))[0] == 200


@pytest.mark.parametrize(
    ("ahead_ms", "status"),
    [(DAY_MS, 200), (30 * DAY_MS, 200), (365 * DAY_MS, 200), (3_600_000, 400), (400 * DAY_MS, 400), (None, 400)],
    ids=["a day", "30 days", "a year", "an hour", "400 days", "garbage"],
)
async def test_an_expiration_lies_between_a_day_and_a_year(api: CourierApi, ahead_ms: int | None, status: int) -> None:
    """`x-idempotency-expiration` outside its bounds is refused."""
    at = "soon" if ahead_ms is None else str(time.time_ns() // 1_000_000 + ahead_ms)
    headers = {"Idempotency-Key": "k", "x-idempotency-expiration": at}

    assert (await call(api, "POST", "/automations/welcome/invoke", {"recipient": "u"}, headers))[0] == status


async def test_an_expiration_may_be_iso_8601(api: CourierApi) -> None:
    """With a zone or without one, which is UTC then."""
    for zone in (UTC, None):
        at = (datetime.now(UTC) + timedelta(days=30)).replace(tzinfo=zone).isoformat()
        headers = {"Idempotency-Key": f"k{zone}", "x-idempotency-expiration": at}
        assert (await call(api, "POST", "/automations/welcome/invoke", {"recipient": "u"}, headers))[0] == 200


async def test_put_ignores_idempotency_keys(api: CourierApi) -> None:
    """Keys are for POST only."""
    for name in ("A", "B"):
        await call(api, "PUT", "/tenants/t1", {"name": name}, {"Idempotency-Key": "k"})

    assert api.state.tenants["t1"]["name"] == "B"


@pytest.mark.parametrize(
    ("rates", "first", "second", "effects"),
    [
        (ChaosRates(rate_limited=1), 429, 200, 1),
        (ChaosRates(error=1), 500, 500, 0),
        (ChaosRates(error_after_effect=1), 500, 500, 1),
        (ChaosRates(lost=1), None, 200, 1),
        (ChaosRates(silent=1), None, 200, 1),
        (ChaosRates(silent_error=1), None, 500, 0),
        (ChaosRates(late=1), None, 409, 1),
    ],
    ids=["rate limited", "error", "error after effect", "lost", "silent", "silent error", "late"],
)
async def test_each_misfortune_does_what_it_says(
    api: CourierApi, rates: ChaosRates, first: int | None, second: int, effects: int
) -> None:
    """What a repeat with the same key meets, and how often it took effect in the end."""
    path, body, headers = "/automations/welcome/invoke", {"recipient": "u1"}, {"Idempotency-Key": "k"}
    api.chaos = Chaos(rates, seed=7)
    happened = asyncio.Event()
    api.state.on_effect = lambda _effect: happened.set()
    if first is None:
        with pytest.raises(aiohttp.ClientError):
            await call(api, "POST", path, body, headers)
    else:
        assert (await call(api, "POST", path, body, headers))[0] == first
    api.chaos = None

    assert (await call(api, "POST", path, body, headers))[0] == second
    if effects:
        await asyncio.wait_for(happened.wait(), timeout=60)
    assert len(api.state.effects) == effects


def test_the_same_seed_gives_the_same_misfortunes() -> None:
    """Chaos can be repeated."""
    rates = ChaosRates(rate_limited=0.2, error=0.2, lost=0.2)
    one, other = Chaos(rates, seed=3), Chaos(rates, seed=3)

    drawn = [one.draw() for _ in range(200)]
    assert drawn == [other.draw() for _ in range(200)]
    assert set(drawn) == {Misfortune.NONE, Misfortune.RATE_LIMITED, Misfortune.ERROR, Misfortune.LOST}


async def test_a_429_says_when_to_come_back(api: CourierApi) -> None:
    """A rate limit carries Retry-After."""
    api.chaos = Chaos(ChaosRates(rate_limited=1), seed=1)
    async with aiohttp.ClientSession() as http, http.get(f"{api.url}/tenants", headers=AUTH) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")


async def test_trouble_can_hit_one_user_alone(api: CourierApi) -> None:
    """`trouble` answers in place of the endpoint, and nothing takes effect."""
    api.trouble = lambda _method, path: Outcome(status=503) if "/bad" in path else None

    assert (await call(api, "POST", "/profiles/bad", {"profile": {}}))[0] == 503
    assert (await call(api, "POST", "/profiles/good", {"profile": {}}))[0] == 200
    assert [effect.user for effect in api.state.effects] == ["good"]


async def test_scripts_and_refusals_work_as_on_the_data_plane(api: CourierApi) -> None:
    """The script plays once or stands; a refusing API comes back on its port."""
    api.script.once(HangsUp())
    with pytest.raises(aiohttp.ClientError):
        await call(api, "POST", "/send")
    await api.refuse()
    with pytest.raises(aiohttp.ClientConnectorError):
        await call(api, "GET", "/tenants")
    await api.listen()
    assert (await call(api, "GET", "/tenants"))[0] == 200
    assert await api.wait_for_requests(2, timeout_s=60)
    assert api.requests == 2


async def test_messages_are_listed_without_providers_and_paged(api: CourierApi) -> None:
    """A row has no providers; the message has; the history can be asked by type."""
    for n in range(3):
        api.state.messages[f"m{n}"] = {"id": f"m{n}", "status": "SENT", "enqueued": n, "providers": [1]}
    api.state.histories["m1"] = [{"type": "SENT", "ts": 1}, {"type": "OPENED", "ts": 2}]

    _, first = await call(api, "GET", "/messages?limit=1&enqueued_after=0")
    _, rest = await call(api, "GET", f"/messages?limit=5&enqueued_after=0&cursor={first['paging']['cursor']}")
    assert [row["id"] for row in first["results"] + rest["results"]] == ["m1", "m2"]
    assert "providers" not in first["results"][0]
    assert rest["paging"] == {"more": False}
    assert (await call(api, "GET", "/messages/m1"))[1]["providers"] == [1]
    assert (await call(api, "GET", "/messages/m1/history?type=OPENED"))[1] == {"results": [{"type": "OPENED", "ts": 2}]}
