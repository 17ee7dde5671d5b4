"""Names and roles: who may act, whom the audit log names, and who only pretends."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from forwarder.errors import SettingsInvalid
from forwarder.model import RouteName, State
from forwarder.operator.operation import VIEW_ONLY
from forwarder.operator.people import COOKIE, People, cleaned
from forwarder.settings import Settings, load
from forwarder.settings.operators import named_token, user_header

OPERATE, VIEW, SHARED = "token-of-alice-0001", "token-of-graham-0002", "shared-token-0003"
NAMED = (f"alice:operate:{OPERATE}", f"graham:view:{VIEW}")
PROXY = "X-Forwarded-User=127.0.0.2"
READING = {"/api/outcome", "/events/search", "/settings/check", "/login", "/logout"}


async def _ask(world: Any, path: str, *, source: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    """Ask from another address of this machine, as a proxy or an impostor there would."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(f"{world.next_url()}{path}", json={}, headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_view_token_sees_everything_and_changes_nothing(start: Any) -> None:
    """Whatever can be read is answered; of what can be posted only what changes nothing, whatever the body."""
    world = await start(named=NAMED)
    sequence = await world.arrive(state=State.DEAD, reason="no id")
    for path in ("/", "/events", f"/events/{sequence}", "/dead-letters", "/api/events", "/api/audit", "/metrics"):
        assert (await world.get(path, **_bearer(VIEW))).status == 200, path
    acts = {one.path for one in world.operations if one.method == "POST"} - READING
    assert {"/api/replay", "/api/discard", "/api/links", "/dead-letters/replay", "/api/routes/{route}/pause"} <= acts
    for path in acts:
        filled = path.replace("{sequence}", str(sequence)).replace("{route}", "courier_to_rudderstack")
        page = await world.post(filled, {"confirmed": "1"}, **_bearer(VIEW))
        assert (page.status, "your role is view" in page.words) == (403, True), path
        assert await _ask(world, filled, **_bearer(VIEW)) == (403, f'{{"error": "{VIEW_ONLY}"}}') or "/api/" not in path
    assert await world.audits() == []
    assert await world.states() == {sequence: "dead"}
    assert world.jobs.running() == []
    assert {route.state for route in world.routes.values()} == {"running"}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/replay", {"state": "dead"}), ("/api/discard", {"sequences": [1]}), ("/api/forget", {"user_id": "u1"})],
)
async def test_a_view_token_may_count(start: Any, path: str, body: Mapping[str, Any]) -> None:
    """A dry run is a look: it is answered and changes nothing; without it, or beside what cannot be read, it is 403."""
    world = await start(named=NAMED)
    await world.arrive(state=State.DEAD, reason="r")
    said = await world.api(path, {**body, "dry_run": True}, **_bearer(VIEW))
    assert 1 in (said.get("replayed"), said.get("discarded"), said.get("states", {}).get("dead"))
    for wrong in (body, {**body, "dry_run": False}, {**body, "dry_run": 1}, {**body, "dry_run": True, "x": 1}):
        assert (await world.api(path, wrong, status=403, **_bearer(VIEW)))["error"] == VIEW_ONLY
    assert await world.audits() == []
    assert await world.states() == {1: "dead"}


async def test_a_view_login_is_shown_no_button(start: Any) -> None:
    """The page of somebody who may only look says so, and offers no act; the forms of acts are closed, too."""
    world = await start(named=NAMED)
    sequence = await world.put({"type": "message:updated", "data": {}}, State.DEAD, "no id")
    await world.put({"type": "track", "event": "E", "userId": "u"}, State.UNMAPPED, "x", inbound=True)
    assert (await world.post("/login", {"token": VIEW})).status == 303
    for path in ("/", "/events", f"/events/{sequence}", "/dead-letters", "/destination-events", "/settings"):
        page = await world.get(path)
        assert "graham may look only" in page.words, path
        posts = set(_posts(page.html)) - {"/logout", "/settings/check"}
        assert not posts, path
        assert "/edit" not in page.html, path
        assert "/destination-events/link" not in page.html, path
    for path in (f"/dead-letters/{sequence}/edit", "/destination-events/link"):
        assert (await world.get(path)).status == 403, path
    await world.post("/logout")
    await world.post("/login", {"token": OPERATE})
    assert "/dead-letters/replay" in _posts(await world.page("/dead-letters")), "the control: who may act has buttons"


def _posts(html: str) -> list[str]:
    return [form.partition('"')[0] for form in html.split('<form method="post" action="')[1:]]


async def test_the_audit_log_names_who_acted(start: Any) -> None:
    """A token's owner by name; with the shared token who was said to be there; a program beside its token."""
    world = await start(token=SHARED, named=NAMED)
    await world.api("/api/routes/courier_to_rudderstack/pause", {}, **_bearer(OPERATE))
    await world.api(
        "/api/routes/courier_to_rudderstack/resume", {}, **_bearer(OPERATE), **{"X-Forwarder-Operator": "cli:bob"}
    )
    await world.api("/api/routes/courier_to_rudderstack/pause", {}, **_bearer(SHARED))
    for token, name in ((SHARED, "eve (token, 10.0.0.1)"), (OPERATE, "eve")):
        await world.post("/login", {"token": token, "name": name})
        await world.post("/routes/courier_to_rudderstack/resume")
    told = [row.who for row in (await world.spool.audit(limit=20))[::-1]]
    assert told == [
        "alice (token, 127.0.0.1)",
        "alice, cli:bob (token, 127.0.0.1)",
        "api (shared token, 127.0.0.1)",
        *["eve token, 10.0.0.1 (shared token, 127.0.0.1)"] * 2,
        *["alice (token, 127.0.0.1)"] * 2,
    ]


async def test_the_proxy_names_its_user(start: Any) -> None:
    """From the proxy's address the header is the login: no token is needed, and the name is in the audit log."""
    world = await start(named=NAMED, proxy=PROXY)
    path = "/api/routes/courier_to_rudderstack/pause"
    assert (await _ask(world, path, source="127.0.0.2", **{"X-Forwarded-User": "dora"}))[0] == 200
    # What an authenticating proxy passes on beside the name is not ours to judge.
    assert (await _ask(world, path, source="127.0.0.2", **{"X-Forwarded-User": "dora"}, **_bearer("id-token")))[
        0
    ] == 200
    assert (await _ask(world, path, source="127.0.0.2"))[0] == 401, "the proxy without a user is nobody"
    assert (await _ask(world, path, source="127.0.0.2", **_bearer(OPERATE)))[0] == 200
    told = [row.who for row in (await world.spool.audit(limit=20))[::-1]]
    assert told == ["dora (proxy, 127.0.0.2)"] * 2 + ["alice (token, 127.0.0.2)"]


@pytest.mark.parametrize("name", ["X-Forwarded-User", "x-forwarded-user", "X-FORWARDED-USER"])
@pytest.mark.parametrize("token", ["", OPERATE], ids=["no token", "a good token"])
async def test_an_impostor_is_refused_loudly(start: Any, name: str, token: str) -> None:
    """From anywhere but the proxy the header is 403 on every path, whatever else is sent, and the log tells of it."""
    world = await start(named=NAMED, proxy=PROXY)
    headers = {name: "root", "X-Forwarded-For": "127.0.0.2", **(_bearer(token) if token else {})}
    for path in ("/api/replay", "/api/outcome", "/login", "/api/routes/courier_to_rudderstack/pause"):
        status, text = await _ask(world, path, **headers)
        assert (status, "FORWARDER_OPERATOR_USER_HEADER" in text) == (403, True), path
    assert world.log[-1]["event"] == "request.rejected"
    assert world.log[-1]["reason"] == "untrusted_user_header"
    counters = [side.parts.metrics.rejected.labels("operator", "untrusted_user_header") for side in world.own.values()]
    assert sum(one._value.get() for one in counters) == 4  # noqa: SLF001  prometheus_client has no reader
    assert await world.audits() == []
    assert (await _ask(world, "/api/routes/courier_to_rudderstack/pause", **_bearer(OPERATE)))[0] == 200, "the control"


@pytest.mark.parametrize("names", [["root", "dora"], [""], ["\t"], ["()"]], ids=["twice", "empty", "blank", "no name"])
async def test_what_a_careless_proxy_lets_through_names_nobody(start: Any, names: list[str]) -> None:
    """A header that a client sent beside the proxy's own, or one without a name, is 403 and not a guess."""
    world = await start(proxy=PROXY)
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as http:
        headers = [("X-Forwarded-User", name) for name in names]
        async with http.post(f"{world.url}/api/outcome", json={"sequences": [1]}, headers=headers) as answer:
            assert answer.status == 403
    assert world.log[-1]["reason"] == "untrusted_user_header"


async def test_a_proxy_may_let_its_users_only_look(start: Any) -> None:
    """With the role in the setting whoever the proxy names acts nowhere."""
    world = await start(proxy=f"{PROXY.replace('=', ':view=')}")
    headers = {"X-Forwarded-User": "dora"}
    assert (await _ask(world, "/api/routes/courier_to_rudderstack/pause", source="127.0.0.2", **headers))[0] == 403
    assert (await _ask(world, "/api/outcome", source="127.0.0.2", **headers))[0] == 400, "judged, not refused"


async def test_behind_a_proxy_alone_there_is_no_login_to_lead_to(start: Any) -> None:
    """Without any token a browser that comes past the proxy is told so, and a change still needs our own origin."""
    world = await start(proxy="X-Forwarded-User=127.0.0.1")
    assert (await world.get("/events")).status == 401
    page = await world.get("/events", **{"X-Forwarded-User": "dora"})
    assert (page.status, "Log out" in page.words, "dora" in page.words) == (200, False, True)
    headers = {"X-Forwarded-User": "dora", "Origin": "https://evil.example"}
    assert (await world.post("/routes/courier_to_rudderstack/pause", **headers)).status == 403


@pytest.mark.one_daemon("each process counts guesses for itself")
async def test_a_denial_tells_nobody_how_the_daemon_is(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Denied is who has no login, guesses tokens, pretends to be the proxy, or comes by a foreign name or site.

    His page names no figure and no page of ours, and the spool is not read for it.
    """
    worlds = {"tokens": await start(named=NAMED, proxy=PROXY), "proxy": await start(proxy=PROXY), "open": await start()}
    for world in worlds.values():
        await world.arrive(state=State.DEAD, reason="r")
        world.routes[RouteName.COURIER_TO_RUDDERSTACK].hold("no answer")
        for spool in world.spools:
            monkeypatch.setattr(spool, "facts", None)
    evil = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    denied = [
        await worlds["tokens"].get("/events", **{"X-Forwarded-User": "dora"}),
        await worlds["tokens"].get("/events", **evil),
        await worlds["proxy"].get("/events"),
        *[await worlds["tokens"].get("/events", **_bearer("wrong")) for _ in range(11)],
        await worlds["open"].get("/events", Host="evil.example"),
        await worlds["open"].post("/events/replay", {"state": "dead"}, **{"Sec-Fetch-Site": "cross-site"}),
    ]
    assert [page.status for page in denied] == [403, 403, 401, *[401] * 10, 429, 403, 403]
    for page in denied:
        assert not re.search(r"held|badge|Dead letters|version", page.html), page.words
    monkeypatch.undo()
    assert re.search(r"\(held\).*badge", await worlds["open"].page("/events"), re.DOTALL), "the control"


async def test_a_changed_token_changes_its_logins(start: Any) -> None:
    """A login is worth what its token is worth now: another role at once, nothing once it is gone; others stay."""
    world = await start(named=NAMED)
    people: People = world.people
    alice, graham = await people.log_in(OPERATE), await people.log_in(VIEW)

    def replace_tokens(*named: str) -> None:
        for side in world.own.values():
            side.people.replace_tokens(None, [named_token(one) for one in named])

    async def status(login: str) -> int:
        path = "/api/routes/courier_to_rudderstack/pause"
        return (await _ask(world, path, Cookie=f"{COOKIE}={login}"))[0]

    assert (await status(alice), await status(graham)) == (200, 403)
    replace_tokens(f"alice:view:{OPERATE}", f"graham:view:{VIEW}")
    assert (await status(alice), await status(graham)) == (403, 403)
    replace_tokens(f"graham:operate:{VIEW}")
    assert (await status(alice), await status(graham)) == (401, 200)


def test_a_name_cannot_pass_for_another_line() -> None:
    """Brackets, line ends and marks that turn text around are left out of a name, and it is short."""
    assert cleaned(" al\u202eice\n (token)\x1b ") == "alice token"
    assert len(cleaned("x" * 500)) == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alice", "entry 1: it is not name:role:token"),
        ("alice:operate", "not name:role:token"),
        ("alice:operate:", "no header can carry"),
        ("alice:root:hunter2", "neither view nor operate"),
        ("a b:view:hunter2", "contains a blank"),
        ("al(ce:view:hunter2", "its name is not of letters"),
        (":view:hunter2", "its name is not of letters"),
        ("alice:view:replace-me", "placeholder"),
        ("alice:view:hunter2,bob:operate:hunter2", "two entries have the same token"),
        ("alice:view:other,hunter2:alice:view", "entry 2: its role is neither"),
    ],
)
def test_named_tokens_are_judged_without_being_shown(text: str, said: str) -> None:
    """What is wrong is said by the number of the entry; nothing of a token is shown, wherever it was written."""
    with pytest.raises(ValueError, match="FORWARDER_OPERATOR_TOKENS") as raised:
        Settings.model_validate({"FORWARDER_OPERATOR_TOKENS": text})
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("X-Forwarded-User", "from which addresses"),
        ("X-Forwarded-User=", "from which addresses"),
        ("=10.0.0.7", "a header that only the proxy sets"),
        ("Cookie=10.0.0.7", "a header that only the proxy sets"),
        ("X-Forwarded-For=10.0.0.7", "a header that only the proxy sets"),
        ("X-User=0.0.0.0/0", "every address there is"),
        ("X-User=10.0.0.7,::/0", "every address there is"),
        ("X-User=10.0.0.7/24", "whose host bits are 0"),
        ("X-User=proxy.internal", "no address"),
        ("X-User:root=10.0.0.7", "neither view nor operate"),
    ],
)
def test_a_proxy_is_named_exactly(text: str, said: str) -> None:
    """A header that others send, or addresses that anybody has, are no setting."""
    with pytest.raises(ValueError, match="FORWARDER_OPERATOR_USER_HEADER") as raised:
        Settings.model_validate({"FORWARDER_OPERATOR_USER_HEADER": text})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::5", True),
        ("10.2.0.1", False),
        ("2001:db9::5", False),
        ("", False),
        ("10.1.2.3.evil", False),
    ],
)
def test_a_proxy_is_known_by_its_address(peer: str, *, is_trusted: bool) -> None:
    """The peer's own address counts, in either notation; a setting reads back as it was written."""
    header = user_header("X-User: view = 10.1.0.0/16, 2001:db8::/32".replace(" ", ""))
    assert header.trusts(peer) is is_trusted
    assert str(header) == "X-User:view=10.1.0.0/16,2001:db8::/32"


def test_one_token_has_one_role() -> None:
    """The shared token among those that may only look is an error: nobody could tell which is meant."""
    with pytest.raises(SettingsInvalid, match="FORWARDER_OPERATOR_TOKEN: it is also in"):
        _loaded(FORWARDER_OPERATOR_TOKEN=VIEW, FORWARDER_OPERATOR_TOKENS=",".join(NAMED))


@pytest.mark.parametrize("way", [{"TOKENS": NAMED[0]}, {"USER_HEADER": PROXY}, {"TOKEN": SHARED}, {}])
def test_off_loopback_somebody_is_asked_who_he_is(way: Mapping[str, str]) -> None:
    """Any of the three ways opens another address than loopback; none is an error."""
    given = {f"FORWARDER_OPERATOR_{name}": text for name, text in way.items()}
    if way:
        assert _loaded(**given).given() >= given.keys()
        return
    with pytest.raises(SettingsInvalid, match="FORWARDER_OPERATOR_TOKENS or _USER_HEADER"):
        _loaded()


def _loaded(**given: str) -> Settings:

    base = {"COURIER_API_KEY": "ck", "FORWARDER_INBOUND_KEYS": "k", "FORWARDER_OPERATOR_LISTEN": "0.0.0.0:8081"}
    return load(base | given, Path("/nonexistent"))
