"""The login: who gets in, who does not, and what the cookie promises."""

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.operator.guard import FAILURES_MAX
from forwarder.operator.logins import LIFETIME_S, SESSIONS_MAX
from forwarder.operator.pages.login import own_path
from forwarder.operator.people import COOKIE, People
from stand_ins.clock import HandClock
from stand_ins.kept_in_memory import KeptInMemory

TOKEN = "sesame-opens"


async def test_the_right_token_opens_the_page(start: Any) -> None:
    """Whoever logs in gets a cookie that lets them in until they log out; both are written down."""
    desk = await start(token=TOKEN)
    page = await desk.post("/login", {"token": TOKEN, "next": "/audit?limit=5"})
    assert (page.status, page.location) == (303, "/audit?limit=5")
    assert (await desk.get("/audit")).status == 200
    assert "Log out" in (await desk.get("/audit")).words
    assert (await desk.get("/login?next=/audit")).location == "/audit", "no second login"
    out = await desk.post("/logout")
    assert (out.status, out.location) == (303, "/login")
    assert (await desk.get("/audit")).location == "/login?next=%2Faudit"
    assert [act for act, _ in await desk.audits()] == ["login", "logout"]


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        pytest.param({}, set(), id="plain http"),
        pytest.param({"X-Forwarded-Proto": "https"}, {"secure"}, id="behind a proxy that ends TLS"),
        pytest.param({"X-Forwarded-Proto": "HTTPS, http"}, {"secure"}, id="behind two proxies"),
        pytest.param({"X-Forwarded-Proto": "http"}, set(), id="a proxy without TLS"),
    ],
)
async def test_the_cookie_is_out_of_reach(start: Any, headers: dict[str, str], secure: set[str]) -> None:
    """The cookie is HttpOnly, SameSite=Strict, for the whole site, ends by itself, and is Secure behind TLS."""
    desk = await start(token=TOKEN)
    page = await desk.post("/login", {"token": TOKEN}, **headers)
    name, _, rest = page.headers["Set-Cookie"].partition("=")
    attributes = {part.strip().lower() for part in rest.split(";")[1:]}
    assert name == COOKIE
    assert {"httponly", "samesite=strict", "path=/", f"max-age={LIFETIME_S}"} <= attributes
    assert attributes & {"secure"} == secure
    assert rest.split(";")[0] not in repr(desk.people.__dict__), "only a digest is kept"


async def test_an_https_origin_makes_the_cookie_secure(start: Any) -> None:
    """A browser that says it came by https gets a Secure cookie, though we see http."""
    desk = await start(token=TOKEN)
    page = await desk.post("/login", {"token": TOKEN}, Origin=desk.url.replace("http:", "https:"))
    assert "Secure" in page.headers["Set-Cookie"]


async def test_a_wrong_token_opens_nothing(start: Any) -> None:
    """A wrong token is told, sets no cookie, and the way that was asked for is kept."""
    desk = await start(token=TOKEN)
    page = await desk.post("/login", {"token": "sesame", "next": "/dead-letters"})
    assert page.status == 401
    assert "That is no token of this daemon." in page.words
    assert "Set-Cookie" not in page.headers
    assert page.forms("/login")[0]["next"] == "/dead-letters"
    assert await desk.audits() == []
    assert "sesame" not in repr(desk.log)


@pytest.mark.one_daemon("each process counts guesses for itself")
async def test_guessing_is_throttled(start: Any) -> None:
    """After ten wrong tokens even the right one must wait, and the answer says how long."""
    desk = await start(token=TOKEN)
    for _ in range(FAILURES_MAX):
        assert (await desk.post("/login", {"token": "x"})).status == 401
    page = await desk.post("/login", {"token": TOKEN})
    assert page.status == 429
    assert int(page.headers["Retry-After"]) == 61
    assert (await desk.get("/audit", Authorization="Bearer x")).status == 429, "one count for page and programs"
    desk.clock.now_ms += 61_000
    assert (await desk.post("/login", {"token": TOKEN})).status == 303


async def test_a_large_login_is_not_read(start: Any) -> None:
    """Whoever is not logged in cannot make the daemon read a large body."""
    desk = await start(token=TOKEN)
    assert (await desk.post("/login", {"token": "x" * 20_000})).status == 413


async def test_a_session_ends(start: Any) -> None:
    """After half a day the cookie is worth nothing."""
    desk = await start(token=TOKEN)
    await desk.post("/login", {"token": TOKEN})
    desk.clock.now_ms += (LIFETIME_S - 1) * 1000
    assert (await desk.get("/audit")).status == 200
    desk.clock.now_ms += 1_000
    assert (await desk.get("/audit")).status == 303


async def test_sessions_are_few(start: Any) -> None:
    """Beyond the limit the oldest session goes; those that ended go first."""
    desk = await start()
    people = People(clock=desk.clock, shared=TOKEN)
    first, second = await people.log_in(TOKEN), await people.log_in(TOKEN)
    for _ in range(SESSIONS_MAX - 1):
        await people.log_in(TOKEN)
    assert people.logged_in({COOKIE: first}) is None
    assert people.logged_in({COOKIE: second}) is not None
    assert people.logged_in({}) is None
    assert people.logged_in({COOKIE: ""}) is None
    assert repr(people) == f"People(1 tokens, {SESSIONS_MAX} logins)"
    desk.clock.now_ms += LIFETIME_S * 1000
    await people.log_in(TOKEN)
    assert repr(people) == "People(1 tokens, 1 logins)"


async def test_a_login_holds_at_every_replica() -> None:
    """Begun at one it opens the others and outlives a restart; ended at one it is ended at all. No secret is kept."""
    clock, kept = HandClock(1_800_000_000_000), KeptInMemory()
    here = People(clock=clock, memory=kept, shared=TOKEN)
    there = People(clock=clock, memory=KeptInMemory(beside=kept), shared=TOKEN)
    cookies = {COOKIE: await here.log_in(TOKEN, "ada")}
    for people in (there, People(clock=clock, memory=kept, shared=TOKEN)):
        await people.look(cookies)
        person = people.logged_in(cookies)
        assert person is not None
        assert (person.name, person.way) == ("ada", "shared token")
    stranger = People(clock=clock, memory=kept, shared="another token")
    await stranger.look(cookies)
    assert stranger.logged_in(cookies) is None
    stored = b"".join(kept.values.values())
    assert [secret for secret in (TOKEN, cookies[COOKIE]) if secret.encode() in stored] == []
    await there.log_out(cookies)
    assert here.logged_in(cookies) is None
    assert len(await kept.get("logins") or b"") == 1


async def test_a_login_needs_no_spool() -> None:
    """While nothing can be kept, people get in all the same, at this replica."""
    kept = KeptInMemory()
    kept.is_full = True
    people = People(clock=HandClock(1_800_000_000_000), memory=kept, shared=TOKEN)
    cookies = {COOKIE: await people.log_in(TOKEN)}
    assert people.logged_in(cookies) is not None
    await people.log_out(cookies)
    assert people.logged_in(cookies) is None


@pytest.mark.parametrize("path", ["/dead-letters", "/settings", "/audit", "/destination-events?sort=time", "/jobs/1"])
async def test_people_are_led_to_the_login(start: Any, path: str) -> None:
    """A page that is asked for without a login leads there, and back afterwards."""
    desk = await start(token=TOKEN)
    page = await desk.get(path)
    assert page.status == 303
    form = await desk.get(page.location)
    assert form.forms("/login")[0]["next"] == path


async def test_programs_are_refused(start: Any) -> None:
    """The API and whoever sends a token stay with 401 in JSON; nothing is public but the login and its files."""
    desk = await start(token=TOKEN)
    for path, headers in (("/api/status", {}), ("/metrics", {}), ("/audit", {"Authorization": "Bearer x"})):
        assert (await desk.get(path, **headers)).status == 401, path
    async with desk.http.get("/audit", headers={"Accept": "application/json"}, allow_redirects=False) as answer:
        assert answer.status == 401
    posted = await desk.post("/dead-letters/replay", {"state": "dead"})
    assert (posted.status, posted.location) == (303, "/login")


async def test_another_origin_cannot_log_anybody_in(start: Any) -> None:
    """The origin is judged before the token: 403 whatever was sent, and no failure is counted."""
    desk = await start(token=TOKEN)
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        page = await desk.post("/login", {"token": TOKEN}, **headers)
        assert page.status == 403
        assert "Set-Cookie" not in page.headers


async def test_without_a_token_there_is_no_login(start: Any) -> None:
    """On loopback without a token the login leads to the page, and no cookie is given."""
    desk = await start()
    assert (await desk.get("/login?next=/audit")).location == "/audit"
    page = await desk.post("/login", {"token": ""})
    assert (page.status, page.location) == (303, "/")
    assert "Set-Cookie" not in page.headers
    assert "Log out" not in (await desk.get("/audit")).words
    assert (await desk.post("/logout")).status == 303
    assert await desk.audits() == []


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/events?state=dead", "/events?state=dead"),
        ("", "/"),
        ("events", "/"),
        ("//evil.example", "/"),
        ("///evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/login", "/"),
        ("/login?next=/login", "/"),
        ("/logout", "/"),
        ("/" + "x" * 3_000, "/"),
        ("//[evil", "/"),
    ],
)
async def test_the_login_leads_nowhere_else(start: Any, asked: str, target: str) -> None:
    """After the login one lands on a path of this site, whatever the link said."""
    assert own_path(asked) == target
    desk = await start(token=TOKEN)
    assert (await desk.post("/login", {"token": TOKEN, "next": asked})).location == target


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["/", "\\", ".", ":", "?", "#", "@", "\t", "evil.example", "https:", "é"]), max_size=8))
def test_no_text_leads_to_another_site(parts: list[str]) -> None:
    """Whatever follows next=, a browser that resolves what we answer stays on this site."""
    target = own_path("".join(parts))
    # As the URL standard has it, a backslash is a slash, and tabs and line ends are not there at all.
    read = target.replace("\\", "/").replace("\t", "").replace("\n", "")
    assert urlsplit(urljoin("https://own.example/login", read)).netloc == "own.example"
