"""The demo's own vendors: what they take, what they refuse, and that a repeated call has one effect."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from forwarder.demo.call_stream import AD_HOC, INVOKE, JOIN, MERGE, Effect, Json
from forwarder.demo.vendors import Courier, DataPlane, listening

KEY = {"Authorization": "Bearer pk"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_data_plane_takes_batches_unless_it_is_down(http: aiohttp.ClientSession) -> None:
    """It stores what comes with its key, says 401 to another one, and 503 while it is down."""
    plane, stored = DataPlane("wk"), list[Json]()
    plane.on_stored = stored.append
    async with listening(plane.answer) as url:

        async def post(key: str) -> int:
            headers = {"Authorization": aiohttp.encode_basic_auth(key, "")}
            async with http.post(f"{url}/v1/batch", json={"batch": [{"n": 1}, {"n": 2}]}, headers=headers) as response:
                return response.status

        assert (await post("wk"), await post("other")) == (200, 401)
        plane.is_down = True
        assert await post("wk") == 503
    assert stored == [{"n": 1}, {"n": 2}]


async def test_courier_does_what_it_is_asked_once_per_key(http: aiohttp.ClientSession) -> None:
    """Each operation is told with its user; a repeated key is answered again without an effect, a repeated PUT too."""
    courier, effects = Courier("pk", seed=1), list[Effect]()
    courier.on_effect = effects.append
    async with listening(courier.answer) as url:

        async def ask(method: str, path: str, body: object = None, key: str = "") -> int:
            headers = KEY | ({"Idempotency-Key": key} if key else {})
            async with http.request(method, f"{url}{path}", json=body, headers=headers) as response:
                return response.status

        for _ in range(2):
            assert await ask("POST", "/profiles/u1", {"profile": {}}, key="k1") == 200
        assert await ask("POST", "/automations/welcome/invoke", {"recipient": "u2"}, key="k2") == 200
        assert await ask("POST", "/automations/invoke", {"recipient": "u3"}, key="k3") == 200
        assert await ask("GET", "/tenants/t") == 404
        for _ in range(2):  # a PUT has no key, and repeated it changes nothing
            assert await ask("PUT", "/tenants/t", {"name": "T"}) == 200
            assert await ask("PUT", "/users/u1/tenants/t") == 200
        assert await ask("GET", "/tenants/t") == 200
        assert await ask("POST", "/nowhere") == 404
        async with http.get(f"{url}/tenants/t") as response:
            assert response.status == 401
    told = [(effect.operation, effect.user) for effect in effects]
    assert told == [(MERGE, "u1"), (INVOKE, "u2"), (AD_HOC, "u3"), ("PUT /tenants/{tenant}", ""), (JOIN, "u1")]


async def test_trouble_fails_before_or_after_the_effect(http: aiohttp.ClientSession) -> None:
    """Some calls are refused without an effect, the others take effect and get no answer; none gets a yes."""
    courier, effects = Courier("pk", seed=1), list[Effect]()
    courier.on_effect, courier.trouble = effects.append, 1.0
    refused = lost = 0
    async with listening(courier.answer) as url:
        for n in range(40):
            try:
                async with http.post(f"{url}/profiles/u{n}", json={"profile": {}}, headers=KEY) as response:
                    assert response.status == 503
                    refused += 1
            except aiohttp.ClientError:
                lost += 1
    assert refused > 0
    assert lost == len(effects) > 0
