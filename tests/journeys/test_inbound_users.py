"""What users owe each other: nothing. And controls: the checks of order and of single effects do find a breach."""

import asyncio
import time
from collections.abc import Callable, Sequence

import aiohttp
import pytest

from forwarder.demo.call_stream import LINKS_TOML, Call, CallStream, Effect, happened
from forwarder.demo.facts import Ledger
from forwarder.demo.load_driver import RUDDERSTACK_SCHEDULE_S, LoadDriver
from forwarder.model import RouteName
from stand_ins.chaos import Chaos, ChaosRates
from stand_ins.courier_api import CourierApi
from stand_ins.courier_state import Outcome
from stand_ins.idempotency import Kept, Replays
from stand_ins.process import DaemonProcess

pytestmark = [pytest.mark.journey, pytest.mark.slow]

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
STUCK = "customer-0007"
USERS = 40
EVENTS = 400
CALL_MAX_S = 10.0

MakeDaemon = Callable[[dict[str, str]], DaemonProcess]


class Forgetful(Replays):
    """A Courier that keeps no idempotency key."""

    def keep(self, key: str, kept: Kept) -> None:
        """End the running request and forget it."""
        del kept
        self.forget(key)


@pytest.fixture
async def daemon(make_daemon: MakeDaemon, inbound: dict[str, str]) -> DaemonProcess:
    """A running daemon that knows the stream's links."""
    made = make_daemon(inbound)
    links = made.folder / "links.toml"
    links.write_text(LINKS_TOML)
    made.settings["FORWARDER_LINKS"] = str(links)
    await made.start()
    return made


@pytest.fixture
def ledger(courier: CourierApi) -> Ledger:
    """The account of what was acknowledged and what took effect at Courier."""
    account = Ledger()

    def note(effect: Effect) -> None:
        sighting = happened(effect)
        if sighting is not None:
            account.see(sighting)

    courier.state.on_effect = note
    return account


@pytest.fixture
def driver(http: aiohttp.ClientSession, daemon: DaemonProcess, ledger: Ledger) -> LoadDriver:
    """Posts as RudderStack does, in a hurry."""
    return LoadDriver(http, daemon.url, ledger, schedule_s=RUDDERSTACK_SCHEDULE_S, scale=0.005)


def calls_of(users: int, *, each: int) -> dict[str, list[Call]]:
    """Return so many calls for each of so many users, of the kinds whose effect names its event."""
    stream, now_ms = CallStream(seed=61), time.time_ns() // 1_000_000
    makers = (stream.identify, stream.linked, stream.ad_hoc)
    names = [f"customer-{user:04d}" for user in range(users)]
    return {name: [makers[n % 3](now_ms + n, name) for n in range(each)] for name in names}


def out_of_order(courier: CourierApi, calls: dict[str, list[Call]]) -> list[str]:
    """Return the users whose effects did not come in the order of their calls."""

    def keys(effects: Sequence[Effect]) -> list[object]:
        return [sighting.key for effect in effects if (sighting := happened(effect))]

    return [
        user
        for user, of_user in calls.items()
        if keys(courier.state.effects_of(user)) != [call.facts.key for call in of_user]
    ]


async def post_all(driver: LoadDriver, key: str, calls: dict[str, list[Call]]) -> None:
    """Post each user's calls one after the other, the users side by side."""

    async def post(of_user: list[Call]) -> None:
        for call in of_user:
            assert await driver.call(call, key)

    await asyncio.gather(*(post(of_user) for of_user in calls.values()))


async def test_the_control_finds_an_effect_that_came_twice(
    daemon: DaemonProcess, courier: CourierApi, ledger: Ledger, driver: LoadDriver
) -> None:
    """With a Courier that forgets its keys, answers that are lost after the effect show as duplicates."""
    courier.replays = Forgetful()
    courier.chaos = Chaos(ChaosRates(silent=0.1), seed=62)

    await post_all(driver, daemon.settings["FORWARDER_INBOUND_KEYS"], calls_of(60, each=2))
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0)

    assert totals["delivered"] == 120
    assert ledger.duplicates > 0
    assert list(ledger.missing()) == []


async def test_the_control_finds_two_calls_that_changed_places(
    daemon: DaemonProcess, courier: CourierApi, driver: LoadDriver
) -> None:
    """Two calls of one user that arrive in the wrong order are applied in it, and the check names that user alone."""
    calls = calls_of(10, each=3)
    first, second, third = calls[STUCK]
    posted = calls | {STUCK: [second, first, third]}

    await post_all(driver, daemon.settings["FORWARDER_INBOUND_KEYS"], posted)
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == 30)

    assert out_of_order(courier, posted) == []
    assert out_of_order(courier, calls) == [STUCK]


def hang(courier: CourierApi) -> None:
    """Let no call of the one user be answered."""
    courier.delay_s = lambda _method, path: 3600.0 if path.endswith(STUCK) else 0.0


def fail(courier: CourierApi) -> None:
    """Let every call of the one user be answered 503."""
    courier.trouble = lambda _method, path: Outcome(status=503) if path.endswith(STUCK) else None


@pytest.mark.parametrize("afflict", [hang, fail])
async def test_a_user_whose_calls_fail_delays_no_other(
    daemon: DaemonProcess,
    courier: CourierApi,
    ledger: Ledger,
    driver: LoadDriver,
    afflict: Callable[[CourierApi], None],
) -> None:
    """While no call of one user succeeds, no event of another waits half as long as one time-out of a call (10 s)."""
    arrived_s: dict[str, float] = {}
    posted_s: dict[str, float] = {}
    stream, note = CallStream(seed=63), courier.state.on_effect

    def note_time(effect: Effect) -> None:
        arrived_s.setdefault(effect.body["profile"]["demo_id"], time.monotonic())
        if note is not None:
            note(effect)

    courier.state.on_effect = note_time
    afflict(courier)
    for n in range(EVENTS):
        call = stream.identify(time.time_ns() // 1_000_000, f"customer-{n % USERS:04d}")
        if call.facts.user != STUCK:
            posted_s[call.event["messageId"]] = time.monotonic()
        assert await driver.call(call, daemon.settings["FORWARDER_INBOUND_KEYS"])
    await daemon.wait_for_totals(INBOUND, lambda _totals: posted_s.keys() <= arrived_s.keys())

    assert max(arrived_s[key] - at_s for key, at_s in posted_s.items()) < CALL_MAX_S / 2
    assert not any(effect.user == STUCK for effect in courier.state.effects)
    courier.delay_s = courier.trouble = None
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == EVENTS)
    assert (ledger.duplicates, list(ledger.missing())) == (0, [])
    of_user = [effect.body["profile"]["demo_id"] for effect in courier.state.effects_of(STUCK)]
    assert of_user == sorted(of_user, key=lambda message_id: int(message_id.rsplit("-", 1)[1]))
