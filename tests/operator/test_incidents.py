"""What went wrong is remembered, from its beginning to its end."""

from dataclasses import replace
from typing import Any

import pytest

from forwarder.archive_port import SpoolFacts
from forwarder.delivery.route_status import RouteStatus, ScopeStop
from forwarder.errors import SpoolFull
from forwarder.model import RouteName, State, Totals
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.incidents.keeper import STORE_KEY, Incidents
from forwarder.operator.incidents.watch import KEPT_MAX, LATE_MS, Watch, seen_in_sources
from forwarder.sources.worker import SourceStatus

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
NOW_MS = 1_800_000_000_000


def facts(*, pending: int = 0, dead: int = 0, oldest_ms: int | None = None, refusal: str = "") -> SpoolFacts:
    """Return what a spool would say."""
    totals = Totals(accepted=pending + dead, pending=pending, delivered=0, filtered=0, unmapped=0, dead=dead)
    return SpoolFacts(
        size_bytes=0,
        cap_bytes=1,
        unsettled_bytes={},
        totals={ROUTE: totals},
        oldest_pending_ms={ROUTE: oldest_ms},
        retrying={},
        open_dead={},
        discarded={},
        corrupt_rows=0,
        is_accepting=not refusal,
        refusal=refusal,
        engine="",
    )


def status(state: str = "running", stop: ScopeStop | None = None, *families: ScopeStop) -> dict[RouteName, RouteStatus]:
    """Return what a route would say."""
    return {
        ROUTE: RouteStatus(
            name=ROUTE,
            state=state,
            since_ms=NOW_MS,
            reason="",
            stop=stop,
            families=families,
            in_flight=0,
            in_hand=0,
            concurrency_limit=1,
        )
    }


def stop(state: str = "held", scope: str = "route", *, since_ms: int = NOW_MS) -> ScopeStop:
    """Return what stands still."""
    return ScopeStop(scope=scope, state=state, reason="401", since_ms=since_ms, next_try_ms=since_ms)


def test_a_hold_is_one_incident_with_its_length_and_what_it_delayed() -> None:
    """It begins with the hold, goes on while it does, ends with it, and counts what waited and what died."""
    watch = Watch()
    began, ended = watch.look(status("held", stop()), facts(pending=3, dead=2), now_ms=NOW_MS)
    assert ([one.kind for one in began], ended) == (["hold"], [])
    assert watch.look(status("held", stop()), facts(pending=9, dead=4), now_ms=NOW_MS + 1_000) == ([], [])
    began, ended = watch.look(status(), facts(pending=1, dead=5), now_ms=NOW_MS + 60_000)
    assert began == []
    (one,) = ended
    assert (one.route, one.scope, one.cause) == (ROUTE, "route", "401")
    assert (one.began_ms, one.ended_ms, one.delayed, one.dead) == (NOW_MS, NOW_MS + 60_000, 9, 2)
    assert "RUDDERSTACK_WRITE_KEY" in one.remedy
    assert watch.count_open("hold") == 0


@pytest.mark.parametrize(
    ("seen", "delayed"),
    [
        ((status("held", stop()), facts(pending=9)), 9),
        ((status("backing_off", stop("backing_off")), facts(pending=9)), 9),
        ((status(), facts(pending=9, oldest_ms=NOW_MS - LATE_MS)), 9),
        ((status("running", None, stop(scope="lists")), facts(pending=9)), None),
        ((status("running", None, stop("backing_off", "replays")), facts(pending=9)), None),
        ((status(), facts(pending=9, refusal="full")), None),
    ],
    ids=["a route held", "a route backing off", "late", "a group held", "replays back off", "a refusal"],
)
def test_what_waits_is_counted_only_where_it_waits_for_that(seen: Any, delayed: int | None) -> None:
    """A group's hold delays its own events alone, and a refusal none that were accepted: their number is not known."""
    kept = Incident(kind="hold", route=ROUTE, scope="lists", cause="", began_ms=0, delayed=8)
    watch = Watch([kept])
    began, _ = watch.look(*seen, now_ms=NOW_MS + 10_000)
    watch.look(*seen, now_ms=NOW_MS + 11_000)
    assert [one.delayed for one in began or [kept]] == [delayed]


@pytest.mark.parametrize(
    ("seen", "after_ms", "kinds"),
    [
        ((status("backing_off", stop("backing_off")), facts()), 5_000, []),
        ((status("backing_off", stop("backing_off")), facts()), 10_000, ["back_off"]),
        ((status("running", None, stop(scope="lists")), facts()), 0, ["hold"]),
        ((status(), facts(refusal="storage limit")), 0, ["refusal"]),
        ((status(), facts(oldest_ms=NOW_MS)), LATE_MS - 1, []),
        ((status(), facts(oldest_ms=NOW_MS)), LATE_MS, ["late"]),
        ((status("paused"), facts(oldest_ms=NOW_MS)), LATE_MS, []),
        ((status("held", stop()), facts(oldest_ms=NOW_MS, refusal="full")), LATE_MS, ["hold", "refusal"]),
        ((status(), facts()), 0, []),
    ],
    ids=[
        "a short back-off is daily life",
        "a long back-off",
        "a family",
        "a refusal",
        "not late yet",
        "late",
        "a pause is wanted",
        "two at once",
        "nothing",
    ],
)
def test_what_counts_as_an_incident(seen: Any, after_ms: int, kinds: list[str]) -> None:
    """Holds and refusals at once, back-offs and lateness only when they last."""
    began, _ = Watch().look(*seen, now_ms=NOW_MS + after_ms)
    assert [one.kind for one in began] == kinds


def test_memory_is_bounded_by_number_and_age() -> None:
    """Of very many the newest are kept, and none longer than a week after its end."""
    watch = Watch()
    for number in range(KEPT_MAX + 5):
        watch.look(status("held", stop(since_ms=NOW_MS + number)), facts(), now_ms=NOW_MS + number)
        watch.look(status(), facts(), now_ms=NOW_MS + number)
    assert len(watch.known) == KEPT_MAX
    assert watch.newest(1)[0].began_ms == NOW_MS + KEPT_MAX + 4
    watch.look(status(), facts(), now_ms=NOW_MS + 2 * 604_800_000)
    assert watch.known == []


async def test_incidents_outlive_the_daemon(world: Any) -> None:
    """They are kept on disk; one that was open and is not seen within a minute after a restart has ended."""
    world.routes[ROUTE].hold("answered 401")
    await world.look()
    again = Incidents(world.parts)
    await again.load()
    assert [(one.kind, one.ended_ms) for one in again.watch.known] == [("hold", None)]
    world.routes[ROUTE].stop = None
    await again.look()
    assert [(one.kind, one.ended_ms) for one in again.watch.known] == [("hold", None)]
    world.clock.now_ms += 60_000
    await again.look()
    assert again.watch.known[0].ended_ms == world.clock.now_ms
    assert [line["event"] for line in world.log] == ["incident.began", "incident.ended"]
    assert world.log[-1]["lasted_s"] == 65.0
    await world.spool.put(STORE_KEY, b"not JSON")
    await again.load()
    assert again.watch.known == []


def test_a_restart_ends_nothing_that_goes_on() -> None:
    """What is seen again soon after the start is the same incident; what was seen once ends as ever."""
    for kind, seen in (
        ("hold", (status("held", stop(since_ms=NOW_MS + 30_000)), facts(pending=2, dead=7))),
        ("back_off", (status("backing_off", stop("backing_off")), facts(pending=2, dead=7))),
        ("refusal", (status(), facts(refusal="full", pending=2, dead=7))),
    ):
        route, scope = (None, "") if kind == "refusal" else (ROUTE, "route")
        kept = Incident(
            kind=kind, route=route, scope=scope, cause="", began_ms=0, delayed=9, dead=1, dead_before=5, told=["url"]
        )
        watch = Watch([kept])
        assert watch.look(status(), facts(dead=6), now_ms=NOW_MS) == ([], []), kind
        assert watch.look(*seen, now_ms=NOW_MS + 31_000) == ([], []), kind
        delayed = None if kind == "refusal" else 9
        assert (kept.began_ms, kept.delayed, kept.dead, watch.known) == (0, delayed, 2, [kept])
        assert watch.look(status(), facts(dead=7), now_ms=NOW_MS + 32_000) == ([], [kept]), kind
        assert watch.look(*seen, now_ms=NOW_MS + 33_000)[0] != [], kind
        assert len(watch.look(status(), facts(dead=7), now_ms=NOW_MS + 34_000)[1]) == 1, kind


async def test_what_the_disk_refused_is_kept_as_soon_as_it_can_be(world: Any) -> None:
    """On a full disk an incident is known and told all the same; later it is written down, and again each minute."""
    put = world.spool.put

    async def full(*_: object) -> None:
        raise SpoolFull("no room", retry_after_s=1)

    async def kept() -> list[int | None]:
        again = Incidents(world.parts)
        await again.load()
        return [one.delayed for one in again.watch.known]

    world.replace(put=full)
    world.routes[ROUTE].hold("answered 401")
    with pytest.raises(SpoolFull):
        await world.look()
    assert ([one.kind for one in world.incidents.watch.known], await kept()) == (["hold"], [])
    world.replace(put=put)
    await world.look()
    assert await kept() == [0]
    await world.arrive()
    await world.look()
    assert await kept() == [0]
    world.clock.now_ms += 60_000
    await world.look()
    assert await kept() == [1]


async def test_incidents_are_shown_everywhere(world: Any) -> None:
    """API, page, overview and metric tell what goes on, and what it was when it is over."""
    await world.arrive(state=State.PENDING)
    world.routes[ROUTE].hold("answered 401")
    await world.look()
    (one,) = (await world.api("/api/incidents"))["incidents"]
    assert (one["kind"], one["route"], one["cause"], one["delayed"]) == ("hold", ROUTE, "answered 401", 1)
    assert (one["began_at"], one["ended_at"], one["lasted_s"]) == ("2027-01-15T07:59:55.000Z", None, 5.0)
    page = await world.get("/incidents")
    assert "held Courier → RudderStack" in page.words
    assert "goes on" in page.words
    assert "RUDDERSTACK_WRITE_KEY" in page.words
    assert "answered 401" in (await world.get("/")).words.partition("Incidents All")[2]
    async with world.http.get("/metrics") as answer:
        assert 'forwarder_incidents_open{kind="hold"} 1.0' in await answer.text()
    world.routes[ROUTE].stop = None
    world.clock.now_ms += 60_000
    await world.look()
    assert "goes on" not in (await world.get("/incidents")).words
    assert "1 min 5 s" in (await world.get("/incidents")).words


async def test_a_quiet_daemon_has_no_incidents(world: Any) -> None:
    """Nothing is said where nothing was."""
    await world.look()
    assert "No incident" in (await world.get("/incidents")).words
    assert "Incidents All" not in (await world.get("/")).words
    assert "Nobody is told of them: set FORWARDER_ALERT_URL" in (await world.get("/incidents")).words


def test_what_goes_on_is_seen_first() -> None:
    """However much began and ended since, the overview shows what has not ended."""
    watch = Watch([Incident(kind="gap", route=ROUTE, scope="/events", cause="", began_ms=0)])
    watch.known += [
        Incident(kind="hold", route=ROUTE, scope="route", cause="", began_ms=n, ended_ms=n) for n in (1, 2, 3)
    ]
    assert [one.began_ms for one in watch.foremost(2)] == [0, 3]
    assert [one.began_ms for one in watch.newest(2)] == [3, 2]


def test_every_kind_has_a_remedy() -> None:
    """Whatever it is, the page says what to do."""
    for kind, route in (
        ("hold", ROUTE),
        ("hold", RouteName.RUDDERSTACK_TO_COURIER),
        ("refusal", None),
        ("late", ROUTE),
    ):
        one = Incident(kind=kind, route=route, scope="route", cause="x", began_ms=0)
        assert one.remedy.endswith(".")


async def test_the_watch_is_a_worker(world: Any) -> None:
    """It looks until it is drained, also over a look that the spool refused."""
    looks = []

    async def refusing() -> SpoolFacts:
        looks.append(1)
        await world.incidents.drain()
        return replace(facts(), is_accepting=False, refusal="x")

    world.replace(facts=refusing)
    await world.incidents.run()
    assert looks == [1]
    assert [one.kind for one in world.incidents.watch.known] == ["refusal"]


def source(state: str, *, since_ms: int = NOW_MS, reason: str = "Kafka cannot be reached") -> SourceStatus:
    """Return what a source would say."""
    return SourceStatus(name="kafka", state=state, since_ms=since_ms, reason=reason)


@pytest.mark.parametrize(
    ("state", "after_ms", "is_one"),
    [("away", 60_000, True), ("away", 59_999, False), ("waiting", 600_000, False), ("connected", 600_000, False)],
)
def test_a_bus_that_is_away_for_a_minute_is_an_incident(*, state: str, after_ms: int, is_one: bool) -> None:
    """A broker's restart is none; while the spool is full that is the incident."""
    seen = list(seen_in_sources([source(state)], now_ms=NOW_MS + after_ms))

    assert [(one.kind, one.route, one.scope, one.began_ms) for one in seen] == (
        [("source", ROUTE, "kafka", NOW_MS)] if is_one else []
    )
    assert [one.words for one in seen] == (["The source kafka is away"] if is_one else [])
    assert all("forwarder check --connect" in one.remedy for one in seen)


class SetSource:
    """A source that says what it is told to."""

    def __init__(self) -> None:
        self.said = source("away")

    def status(self) -> SourceStatus:
        """Return that."""
        return self.said


async def test_a_bus_that_is_away_is_one_incident_until_it_is_back(world: Any) -> None:
    """Whatever its reason becomes; it ends when messages come again."""
    bus, clock = SetSource(), world.clock
    incidents = Incidents(replace(world.parts, sources=[bus]))
    clock.now_ms = NOW_MS + 60_000
    await incidents.look()
    bus.said = source("away", reason="Kafka does not answer in time")
    await incidents.look()
    assert incidents.watch.count_open("source") == 1
    assert world.metrics.registry.get_sample_value("forwarder_incidents_open", {"kind": "source"}) == 1
    bus.said = source("connected")
    await incidents.look()
    assert [(one.kind, one.ended_ms) for one in incidents.watch.known] == [("source", clock.now_ms)]
