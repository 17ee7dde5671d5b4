"""Who may use the operator's listener."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.operator.guard import Throttle, host_name, is_own_origin
from forwarder.operator.people import COOKIE

Start = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8081", "Host": "localhost:8081"}, True),
        ({"Origin": "https://bridge.example", "Host": "bridge.example"}, True),
        ({"Origin": "http://bridge.example", "Host": "bridge.example:80"}, True),
        ({"Origin": "http://[::1]:8081", "Host": "[::1]:8081"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://evil.example", "Host": "localhost:8081"}, False),
        ({"Origin": "http://localhost:9999", "Host": "localhost:8081"}, False),
        ({"Origin": "null", "Host": "localhost:8081"}, False),
        ({"Origin": "", "Host": ""}, False),
        ({"Origin": "http://[", "Host": "localhost"}, False),
        ({"Origin": "http://localhost:8081", "Host": "localhost:8081", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_an_origin_is_ours_when_it_is_the_host(headers: Mapping[str, str], *, is_own: bool) -> None:
    """A browser's request is ours only from the page of the host it asked; programs send no origin."""
    assert is_own_origin(headers) is is_own


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_no_header_breaks_the_judgement(origin: str, host: str) -> None:
    """Whatever a header holds, the judgement is a yes or a no."""
    assert is_own_origin({"Origin": origin, "Host": host}) in (True, False)
    assert isinstance(host_name(host), str)


@pytest.mark.parametrize("path", ["/api/replay", "/api/nothing", "/login"])
async def test_another_origin_is_403_before_anything_else(start: Start, path: str) -> None:
    """A change from another origin is refused before path, body or token are looked at."""
    for token in (None, "secret"):
        world = await start(token=token)
        async with world.http.post(path, data=b"{", headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403
            assert "another origin" in await answer.text()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8081", 200),
        ("127.0.0.1", 200),
        ("[::1]:8081", 200),
        ("BRIDGE.internal", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("[", 403),
    ],
)
async def test_without_a_token_only_our_own_names_are_answered(start: Start, host: str, status: int) -> None:
    """A page that rebinds its own name to loopback reads nothing."""
    world = await start()
    async with world.http.get("/api/status", headers={"Host": host}) as answer:
        assert answer.status == status


async def test_with_a_token_programs_send_it(start: Start) -> None:
    """The token opens everything, metrics too; without it there is a 401 that says how."""
    world = await start(token="secret")
    for path in ("/api/status", "/metrics", "/api/nothing"):
        async with world.http.get(path) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="forwarder"')
        async with world.http.get(path, headers={"Authorization": "Basic c2VjcmV0"}) as answer:
            assert answer.status == 401
    headers = {"Authorization": "bearer secret", "Host": "any.example"}
    async with world.http.get("/metrics", headers=headers) as answer:
        assert answer.status == 200


@pytest.mark.one_daemon("each process counts guesses for itself")
async def test_guessing_is_throttled_per_address(start: Start) -> None:
    """After ten wrong tokens within a minute even the right one must wait, then it works."""
    world = await start(token="secret")
    statuses = []
    for given_token in ["wrong"] * 11 + ["secret"]:
        async with world.http.get("/api/status", headers={"Authorization": f"Bearer {given_token}"}) as answer:
            statuses.append(answer.status)
            retry_after = answer.headers.get("Retry-After")
    assert statuses == [401] * 10 + [429, 429]
    assert retry_after == "61"
    world.clock.now_ms += 61_000
    async with world.http.get("/api/status", headers={"Authorization": "Bearer secret"}) as answer:
        assert answer.status == 200


def test_the_throttle_forgets_the_oldest_address() -> None:
    """However many addresses guess, memory is bounded."""
    throttle = Throttle(failures_max=1)
    for number in range(5_000):
        throttle.failed(str(number), now_s=0)
    assert throttle.wait_s("0", now_s=1) == 0
    assert throttle.wait_s("4999", now_s=1) == 59


@pytest.mark.parametrize(
    ("guesser", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "192.0.2.1", False),
    ],
)
def test_a_sender_is_what_he_has_to_himself(guesser: str, other: str, *, is_same: bool) -> None:
    """Whoever has a whole IPv6 network does not get ten guesses for each address in it."""
    throttle = Throttle(failures_max=1)
    throttle.failed(guesser, now_s=0)
    assert (throttle.wait_s(other, now_s=1) > 0) is is_same


@pytest.mark.parametrize(
    ("site", "mode", "status"),
    [
        ("cross-site", "cors", 403),
        ("cross-site", "no-cors", 403),
        ("same-site", "cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ],
)
async def test_other_sites_may_link_here_but_not_load(start: Start, site: str, mode: str, status: int) -> None:
    """Another site's page cannot keep the daemon busy in the background; a link in it works."""
    world = await start()
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    async with world.http.get("/api/status", headers=headers) as answer:
        assert answer.status == status


async def test_a_login_is_as_good_as_the_token(start: Start) -> None:
    """The page's session opens the API; paths of the login itself need none."""
    world = await start(token="secret")
    for cookie, status in ((await world.people.log_in("secret"), 200), ("bad", 401)):
        async with world.http.get("/api/status", headers={"Cookie": f"{COOKIE}={cookie}"}) as answer:
            assert answer.status == status
    for path, status in (("/login", 200), ("/static/x.css", 404), ("/login2", 401), ("/static", 401)):
        async with world.http.get(path) as answer:
            assert answer.status == status


async def test_every_answer_is_strict(start: Start) -> None:
    """Good or bad, no answer may be framed, sniffed, cached or run anything from elsewhere."""
    world = await start()
    for path, host in (("/api/status", "localhost"), ("/api/nothing", "localhost"), ("/api/status", "evil.example")):
        async with world.http.get(path, headers={"Host": host}) as answer:
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert "unsafe-inline" not in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "head", ["GET /api/status HTTP/1.1\r\nHost: localhost", "nonsense", "GET / HTTP/1.1\r\nContent-Length: x"]
)
async def test_no_answer_tells_a_version(start: Start, head: str) -> None:
    """What runs here is nobody's business, not even for a head that is no HTTP."""
    world = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    writer.write(f"{head}\r\n\r\n".encode())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert b"Server: forwarder\r\n" in answer
    assert b"aiohttp" not in answer
