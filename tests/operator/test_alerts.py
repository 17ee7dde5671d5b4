"""People are told of incidents once, together, and again when they are over; no channel delays another."""

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from forwarder.courier.client import CourierClient
from forwarder.errors import NoAnswer
from forwarder.model import HttpRequest, HttpResponse, RouteName
from forwarder.operator.incidents.alerting import Alerting, channels_of, instance_of
from forwarder.operator.incidents.alerts import SETTLE_MS, Alert, Pace, due, mark
from forwarder.operator.incidents.channels import AlertFailed, Channel, CourierChannel, UrlChannel
from forwarder.operator.incidents.incident import Incident
from forwarder.settings import Settings

ROUTE = RouteName.COURIER_TO_RUDDERSTACK
NOW_MS = 1_800_000_000_000
MINUTE_MS = 60_000
SECRET = "T0/B0/hush"


def incident(kind: str = "hold", *, began_ms: int = NOW_MS, ended_ms: int | None = None, **changed: Any) -> Incident:
    """Return one."""
    fields = {"route": ROUTE, "scope": "route", "cause": "answered 401"} | changed
    return Incident(kind=kind, began_ms=began_ms, ended_ms=ended_ms, **fields)


class Host:
    """Where alerts are posted to: keeps every request, and answers as it is told."""

    def __init__(self, status: int = 200, body: bytes = b"ok", trouble: str = "") -> None:
        self.asked: list[HttpRequest] = []
        self.status, self.body, self.trouble = status, body, trouble
        self.is_hanging = False
        self.was_asked = asyncio.Event()

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        self.asked.append(request)
        self.was_asked.set()
        if self.is_hanging:
            await asyncio.Event().wait()
        if self.trouble:
            raise NoAnswer(self.trouble, request_left=True)
        return HttpResponse(status=self.status, headers={}, body=self.body, duration_s=0.0)

    def bodies(self) -> list[Any]:
        """Return what was posted."""
        return [json.loads(one.body) for one in self.asked]


def told(known: Sequence[Incident], *, now_ms: int) -> tuple[list[str], list[str]] | None:
    """Return the kinds that a channel is told of: what began, what ended."""
    alert = due(known, "url", instance="host", now_ms=now_ms)
    return None if alert is None else ([one.kind for one in alert.began], [one.kind for one in alert.ended])


@pytest.mark.parametrize(
    ("known", "after_ms", "expected"),
    [
        ([], 0, None),
        ([incident()], SETTLE_MS - 1, None),
        ([incident()], SETTLE_MS, (["hold"], [])),
        ([incident(told=["url"])], MINUTE_MS, None),
        ([incident(told=["courier:ops"])], MINUTE_MS, (["hold"], [])),
        ([incident("back_off")], MINUTE_MS, None),
        ([incident("back_off")], 5 * MINUTE_MS, (["back_off"], [])),
        ([incident(), incident("late", began_ms=NOW_MS + SETTLE_MS)], SETTLE_MS, (["hold", "late"], [])),
        ([incident(), incident("back_off")], SETTLE_MS, (["hold"], [])),
        ([incident(ended_ms=NOW_MS + 3_000)], MINUTE_MS, None),
        ([incident(ended_ms=NOW_MS + MINUTE_MS, told=["url"])], MINUTE_MS + SETTLE_MS - 1, None),
        ([incident(ended_ms=NOW_MS + MINUTE_MS, told=["url"])], MINUTE_MS + SETTLE_MS, ([], ["hold"])),
        ([incident(ended_ms=NOW_MS + MINUTE_MS, told=["url"], told_end=["url"])], 2 * MINUTE_MS, None),
        ([incident(ended_ms=NOW_MS + MINUTE_MS)], 30 * MINUTE_MS, ([], ["hold"])),
        ([incident(ended_ms=NOW_MS + MINUTE_MS)], MINUTE_MS + SETTLE_MS, ([], ["hold"])),
        ([incident(ended_ms=NOW_MS + MINUTE_MS)], 61 * MINUTE_MS, ([], ["hold"])),
        ([incident(ended_ms=NOW_MS + MINUTE_MS)], 61 * MINUTE_MS + 1, None),
        ([incident(began_ms=NOW_MS + 9 * MINUTE_MS)], 0, (["hold"], [])),
    ],
    ids=[
        "nothing",
        "it may be over at once",
        "it is not",
        "told already",
        "told by another channel only",
        "a destination's bad minute",
        "a destination's bad quarter",
        "what has just begun is told along",
        "what may pass by itself is not told along",
        "over before anybody was told",
        "it may begin again at once",
        "a notice of recovery",
        "recovery told already",
        "begun and ended while the channel failed",
        "told as soon as it is certainly over",
        "told for an hour",
        "that is no news any more",
        "the clock was set back",
    ],
)
def test_what_is_told_when(known: list[Incident], after_ms: int, expected: object) -> None:
    """Each incident is told once it lasts, together with others, and once more when it is over."""
    assert told(known, now_ms=NOW_MS + after_ms) == expected


@given(
    some.lists(
        some.tuples(
            some.sampled_from(["hold", "late", "back_off"]), some.integers(0, 900_000), some.integers(0, 900_000)
        ),
        max_size=8,
    ),
    some.lists(some.integers(0, 4_000_000), min_size=1, max_size=30).map(sorted),
)
def test_nothing_is_told_twice(spans: list[tuple[str, int, int]], looks: list[int]) -> None:
    """However it is looked at, a beginning and an end are told at most once each, and no end after an untold blip."""
    known = [incident(kind, began_ms=NOW_MS + at, scope=str(n)) for n, (kind, at, _) in enumerate(spans)]
    began: list[str] = []
    ended: list[str] = []
    for look in looks:
        now_ms = NOW_MS + look
        for one, (_, at, length) in zip(known, spans, strict=True):
            one.ended_ms = NOW_MS + at + length if look >= at + length else None
        alert = due([one for one in known if one.began_ms <= now_ms], "url", instance="host", now_ms=now_ms)
        if alert is not None:
            began += [one.scope for one in alert.began]
            ended += [one.scope for one in alert.ended]
            mark(alert, "url")
    assert len(set(began)) == len(began)
    assert len(set(ended)) == len(ended)
    assert all(length >= SETTLE_MS for n, (_, _, length) in enumerate(spans) if str(n) in ended and str(n) not in began)


def test_a_channel_is_used_less_the_more_there_is() -> None:
    """Alerts in a row come a minute apart, then two, then four, at most a quarter of an hour; quiet starts anew."""
    pace = Pace(lambda: 0.5)
    now_s, gaps = 0.0, []
    for _ in range(6):
        pace.told(now_s=now_s)
        gap = next(wait for wait in range(10_000) if pace.may_tell(now_s=now_s + wait))
        gaps.append(gap)
        now_s += gap
    assert gaps == [60, 120, 240, 480, 900, 900]
    pace.told(now_s=now_s + 7_200)
    assert pace.may_tell(now_s=now_s + 7_260)


def test_a_channel_that_fails_is_tried_less_and_less() -> None:
    """The waits double from five seconds to five minutes, with jitter; one that arrives ends it."""
    pace = Pace(lambda: 1.0)
    assert [pace.failed(now_s=0.0) for _ in range(8)] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert not pace.may_tell(now_s=299)
    pace.told(now_s=300)
    assert pace.failed(now_s=400) == 5
    assert Pace(lambda: 0.0).failed(now_s=0.0) == 1.0


def test_what_is_not_known_to_be_delayed_is_left_out() -> None:
    """Of a refusal, or a group's hold, the alert tells what died alone."""
    over = incident("refusal", ended_ms=NOW_MS + MINUTE_MS, dead=2)
    told = Alert(instance="b", at_ms=NOW_MS, began=(), ended=(over,)).lines()
    assert told[0].endswith("answered 401 (2 dead).")


ALERT = Alert(
    instance="bridge-1",
    at_ms=NOW_MS + 5 * MINUTE_MS,
    began=(incident(cause="answered <401> & held"),),
    ended=(incident("late", ended_ms=NOW_MS + MINUTE_MS, delayed=7, dead=2),),
)


@pytest.mark.parametrize(
    ("url", "text_of"),
    [
        (f"https://hooks.slack.com/services/{SECRET}", lambda body: body["text"]),
        (
            f"https://x.webhook.office.com/{SECRET}",
            lambda body: "\n".join(block["text"] for block in body["attachments"][0]["content"]["body"]),
        ),
        (
            f"https://prod-1.westeurope.logic.azure.com:443/workflows/{SECRET}",
            lambda body: "\n".join(block["text"] for block in body["attachments"][0]["content"]["body"]),
        ),
        (f"https://alerts.example.org/{SECRET}", lambda body: body["summary"] + "\n" + body["text"]),
        ("https://hooks.slack.com.example.org/x", lambda body: body["summary"] + "\n" + body["text"]),
    ],
    ids=["Slack", "Teams, connector", "Teams, workflow", "anything else", "only looks like Slack"],
)
async def test_an_alert_has_the_form_that_its_host_understands(url: str, text_of: Callable[[Any], str]) -> None:
    """What began with its remedy, what is over with its length and its cost; the address is told nowhere."""
    host = Host()
    channel = UrlChannel(host, url)
    await channel.send(ALERT)
    text = text_of(host.bodies()[0])
    assert "forwarder on bridge-1: Courier → RudderStack is held, Courier → RudderStack is late: over" in text
    assert "RUDDERSTACK_WRITE_KEY" in text
    assert "after 1 min 0 s: Courier → RudderStack is late: answered 401 (7 events delayed, 2 dead)" in text
    assert ("&lt;401&gt; &amp; held" if "slack.com/" in url else "<401> & held") in text
    assert SECRET not in f"{channel!r} {channel.where} {text}"


def test_a_long_alert_is_cut_and_says_so() -> None:
    """Twenty incidents are shown, the rest is counted."""
    lines = Alert(instance="x", at_ms=NOW_MS, began=tuple(incident() for _ in range(25))).lines()
    assert (len(lines), lines[-1]) == (21, "And 5 more: `forwarder incidents`.")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (Host(500), "answered 500"),
        (Host(302), "answered 302"),
        (Host(trouble="time-out"), "time-out"),
        (
            Host(200, b"Webhook message delivery failed with error: Microsoft Teams endpoint returned 429"),
            "answered 200",
        ),
    ],
    ids=["an error", "a redirect", "no answer", "a connector that refuses with 200"],
)
async def test_an_alert_that_does_not_arrive_is_told(host: Host, reason: str) -> None:
    """Whatever is no yes is a failure, in words without the address."""
    with pytest.raises(AlertFailed, match=reason):
        await UrlChannel(host, f"https://x.webhook.office.com/{SECRET}").send(ALERT)


async def test_an_alert_through_courier_is_a_message_with_a_key(world: Any) -> None:
    """It names template, recipient and data, gives the message's id, and is sent twice under one key."""
    host = Host(202, b'{"requestId":"1-a"}')
    client = CourierClient(host, base_url="https://api.courier.com", api_key="k", clock=world.clock)
    channel = CourierChannel(client=client, template="ALERT", recipient="ops@example.com")
    assert await channel.send(ALERT) == "1-a"
    await channel.send(Alert(instance="bridge-1", at_ms=NOW_MS, began=ALERT.began, ended=ALERT.ended))
    await CourierChannel(client=client, template="ALERT", recipient="u1").send(ALERT)
    first, again, other = host.asked
    assert first.url == "https://api.courier.com/send"
    message = host.bodies()[0]["message"]
    assert (message["template"], message["to"]) == ("ALERT", {"email": "ops@example.com"})
    assert message["data"]["began"][0]["cause"] == "answered <401> & held"
    assert host.bodies()[2]["message"]["to"] == {"user_id": "u1"}
    keys = [one.headers["Idempotency-Key"] for one in (first, again, other)]
    assert keys[0] == keys[1] != keys[2]
    for answer in (b"", b"[]", b"{}"):
        host.body = answer
        with pytest.raises(AlertFailed, match="without a request id"):
            await channel.send(ALERT)


async def test_a_refused_alert_is_tried_under_another_key(world: Any) -> None:
    """Courier repeats what it answered under a key; a message whose answer was lost may have been sent."""
    host = Host(503)
    client = CourierClient(host, base_url="https://api.courier.com", api_key="k", clock=world.clock)
    channel = CourierChannel(client=client, template="ALERT", recipient="u1")
    for status, trouble in ((503, ""), (200, "time-out"), (409, ""), (503, ""), (400, "")):
        host.status, host.trouble = status, trouble
        with pytest.raises(AlertFailed):
            await channel.send(ALERT)
    host.status, host.trouble, host.body = 202, "", b'{"requestId":"1-a"}'
    await channel.send(ALERT)
    await channel.send(ALERT)
    first, second, third, fourth, fifth, sent, again = (one.headers["Idempotency-Key"] for one in host.asked)
    assert second == third == fourth
    assert len({first, second, fifth, sent}) == 4
    assert again == first


async def test_a_failing_channel_keeps_no_other_from_telling(world: Any) -> None:
    """The address is told while Courier fails; Courier is told everything once it works, also after a restart."""
    url, courier = Host(), Host(503)
    client = CourierClient(courier, base_url="https://api.courier.com", api_key="k", clock=world.clock)
    channels: list[Channel] = [
        UrlChannel(url, f"https://alerts.example.org/{SECRET}"),
        CourierChannel(client=client, template="T", recipient="ops"),
    ]

    async def look(*, after_ms: int) -> None:
        world.clock.now_ms += after_ms
        await world.look()
        for channel, pace in zip(channels, paces, strict=True):
            await alerting.tell(channel, pace)

    def restarted() -> tuple[Alerting, list[Pace]]:
        made = Alerting(channels, world.incidents, instance="x", reporter=world.parts.reporter, clock=world.clock)
        return made, [Pace(lambda: 1.0) for _ in channels]

    alerting, paces = restarted()
    world.routes[ROUTE].hold("answered 401")
    await look(after_ms=0)
    assert url.asked == []
    await look(after_ms=SETTLE_MS)
    await look(after_ms=1_000)
    assert (len(url.asked), len(courier.asked)) == (1, 1)
    await world.incidents.load()
    alerting, paces = restarted()
    courier.status, courier.body = 202, b'{"requestId":"1-a"}'
    await look(after_ms=20_000)
    assert (len(url.asked), len(courier.asked)) == (1, 2)
    world.routes[ROUTE].stop, world.routes[ROUTE].state = None, "running"
    await look(after_ms=120_000)
    await look(after_ms=SETTLE_MS)
    assert [len(body["ended"]) for body in url.bodies()] == [0, 1]
    lines = [line for line in world.log if line["event"].startswith("alert.")]
    assert [(line["event"], line["channel"]) for line in lines] == [
        ("alert.sent", "url"),
        ("alert.failed", "courier"),
        ("alert.sent", "courier"),
        ("alert.sent", "url"),
        ("alert.sent", "courier"),
    ]
    assert SECRET not in str(world.log)
    async with world.http.get("/metrics") as answer:
        text = await answer.text()
    assert 'forwarder_alerts_total{channel="courier",outcome="failed"} 1.0' in text
    assert 'forwarder_alerts_total{channel="url",outcome="sent"} 2.0' in text


async def test_new_secrets_are_taken_while_it_runs(world: Any) -> None:
    """An address and a key that were replaced are used from the next alert on."""
    host = Host(202, b'{"requestId":"1-a"}')
    given = {"COURIER_API_KEY": "old", "FORWARDER_ALERT_TEMPLATE": "T", "FORWARDER_ALERT_TO": "ops"}
    old = Settings.model_validate(given | {"FORWARDER_ALERT_URL": "https://alerts.example.org/old"})
    new = given | {"COURIER_API_KEY": "new", "FORWARDER_ALERT_URL": "https://alerts.example.org/new"}
    swaps: list[Any] = []
    channels = channels_of(old, host, world.clock, swaps)
    for take in swaps:
        take(Settings.model_validate(new))
    for channel in channels:
        await channel.send(ALERT)
    assert [one.url for one in host.asked] == ["https://alerts.example.org/new", "https://api.courier.com/send"]
    assert host.asked[1].headers["Authorization"] == "Bearer new"
    assert channels_of(Settings.model_validate({}), host, world.clock, []) == []


def test_an_alert_says_which_daemon_it_is_of() -> None:
    """By the name that the outside knows, else by its machine's."""
    assert (
        instance_of(Settings.model_validate({"FORWARDER_PUBLIC_URL": "https://bridge.acme.org/x"})) == "bridge.acme.org"
    )
    assert instance_of(Settings.model_validate({})) == socket.gethostname()


async def test_a_hanging_channel_holds_up_neither_others_nor_the_end(world: Any) -> None:
    """While one host never answers the other is told, and a drain ends both at once."""
    hanging, good = Host(), Host()
    hanging.is_hanging = True
    channels = [UrlChannel(hanging, "https://a.example.org"), UrlChannel(good, "https://b.example.org")]
    alerting = Alerting(channels, world.incidents, instance="x", reporter=world.parts.reporter, clock=world.clock)
    world.routes[ROUTE].hold("answered 401")
    await world.look()
    world.clock.now_ms += SETTLE_MS
    running = asyncio.create_task(alerting.run())
    async with asyncio.timeout(60):
        await hanging.was_asked.wait()
        await good.was_asked.wait()
        await alerting.drain()
        await running
