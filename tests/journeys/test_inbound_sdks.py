"""The vendors' own SDKs, in Python, Node, Go, Java and Kotlin, use the daemon as a data plane without knowing it."""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forwarder.model import RouteName
from stand_ins.courier_api import CourierApi
from stand_ins.process import DaemonProcess
from stand_ins.waiting import wait_until

pytestmark = pytest.mark.journey

INBOUND = RouteName.RUDDERSTACK_TO_COURIER.value
LINKS_TOML = '[[link]]\nevent = "Order Completed"\ntarget = "order-thanks"\n'
USER = "user-0/maya okafor+ä"  # a careless path would mangle it
ANONYMOUS = "user-0-anonymous"
TENANT = "acct/1 ü"
CROWD = 40

Json = dict[str, Any]
Calls = list[tuple[str, Json]]
Program = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sdk:
    """A program that drives one SDK: url, write key and packing as arguments, calls on stdin, failures on stdout."""

    program: str
    packing: str
    sends_nulls: bool = True
    is_patient: bool = True  # repeats for longer than a start takes
    waits: bool = True  # with a request until the one before was answered

    def __str__(self) -> str:
        """Name it in test ids."""
        return f"{self.program.partition('.')[0]}-{self.packing}"

    async def post(self, program: Program, url: str, key: str, calls: Calls) -> list[str]:
        """Post the calls and return what the SDK says failed; it has flushed and ended by then."""
        process = await asyncio.create_subprocess_exec(
            *program(self.program),
            *(url, key, self.packing),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(json.dumps(calls).encode()), 90)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        failed: list[str] = json.loads(output)
        return failed


SDKS = (
    Sdk("rudder_sdk_python.py", "gzip"),
    Sdk("segment_analytics_python.py", "gzip"),
    Sdk("segment_analytics_python.py", "plain"),
    Sdk("node_callbacks.cjs", "rudder-gzip"),
    Sdk("node_callbacks.cjs", "rudder-worker", is_patient=False, waits=False),
    Sdk("node_callbacks.cjs", "segment-6", waits=False),
    Sdk("segment_analytics_node.cjs", "plain"),
    Sdk("go", "rudder-gzip"),
    Sdk("go", "rudder-plain"),
    Sdk("go", "segment-plain"),
    Sdk("RudderJava.java", "gzip", sends_nulls=False),
    Sdk("RudderJava.java", "plain", sends_nulls=False),
    Sdk("SegmentJava.java", "plain", sends_nulls=False),
)
_OVERLAPS = pytest.mark.one_daemon("its requests overlap: replicas take them in either order")
SEGMENT_KOTLIN = Sdk("SegmentKotlin.java", "gzip")


@pytest.fixture
def program(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return the command line of a program that drives an SDK."""
    sdks, modules = checkout / "tests" / "sdks", checkout / "tests" / "node" / "node_modules"
    built = sdks / ".built"
    monkeypatch.setenv("NODE_PATH", str(modules))
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def needed(is_there: object, what: str) -> None:
        if not is_there:
            pytest.skip(f"needs {what}: make sdks")

    def command(name: str) -> tuple[str, ...]:
        stem, _, kind = name.partition(".")
        match kind:
            case "py":
                return sys.executable, str(sdks / name)
            case "cjs":
                node = shutil.which("node") or ""
                needed(node and modules.is_dir(), "Node and its packages")
                return node, str(sdks / name)
            case "java":
                java = shutil.which("java") or ""
                needed(java and (built / "java").is_dir(), "Java and Maven")
                return java, "-XX:TieredStopAtLevel=1", "-cp", f"{built / 'java'}:{built / 'jars'}/*", stem
            case _:
                needed((built / name).is_file(), "Go")
                return (str(built / name),)

    return command


def sample_calls() -> Calls:
    """Return one call of each kind, in an order that must be kept, and then enough to need several requests."""
    traits = {"email": "maya@example.com", "firstName": "Maya", "phone": "+12025550142", "address": {"city": "Leeds"}}
    automation = {
        "steps": [{"action": "send", "template": "receipt", "recipient": USER}],
        "cancelation_token": "cart-1",
        "data": {"cart": 1},
    }
    order = {"total": 12.5, "items": [{"sku": "A-1", "qty": 2}], "note": None, "grüße": "注文"}
    return [
        ("identify", {"userId": USER, "traits": traits}),
        ("track", {"userId": USER, "event": "Order Completed", "properties": order}),
        ("track", {"userId": USER, "event": "Cart Left", "properties": {"courier": {"automation": automation}}}),
        ("track", {"userId": USER, "event": "Product Viewed", "properties": {}}),
        ("group", {"userId": USER, "groupId": TENANT, "traits": {"name": "Acme", "employees": 20}}),
        ("page", {"userId": USER, "name": "Home"}),
        ("screen", {"userId": USER, "name": "Home"}),
        ("alias", {"userId": USER, "previousId": ANONYMOUS}),
        ("track", {"anonymousId": ANONYMOUS, "event": "Order Completed", "properties": {"total": 1}}),
        *(
            ("track", {"userId": f"customer-0{n}", "event": "Order Completed", "properties": {"total": n}})
            for n in range(CROWD)
        ),
    ]


@pytest.fixture
async def daemon(make_daemon: Callable[[dict[str, str]], DaemonProcess], inbound: dict[str, str]) -> DaemonProcess:
    """A daemon with one link, not started yet."""
    made = make_daemon(inbound)
    links = made.folder / "links.toml"
    links.write_text(LINKS_TOML)
    made.settings["FORWARDER_LINKS"] = str(links)
    return made


@pytest.mark.parametrize("sdk", [pytest.param(sdk, marks=() if sdk.waits else _OVERLAPS) for sdk in SDKS], ids=str)
async def test_an_sdk_uses_the_daemon_as_its_data_plane(
    sdk: Sdk,
    daemon: DaemonProcess,
    courier: CourierApi,
    program: Program,
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """Every kind of call that an unchanged SDK makes is taken and does at Courier what it should, once, in order."""
    await daemon.start()

    assert await sdk.post(program, daemon.url, daemon.settings["FORWARDER_INBOUND_KEYS"], sample_calls()) == []
    totals = await daemon.wait_for_totals(
        INBOUND, lambda totals: (totals["accepted"], totals["pending"]) == (9 + CROWD, 0)
    )

    assert totals == {
        "accepted": 9 + CROWD,
        "pending": 0,
        "delivered": 5 + CROWD,
        "filtered": 3,
        "unmapped": 1,
        "dead": 0,
    }
    assert await duplicates(daemon) == 0
    state = courier.state
    assert state.profiles == {
        USER: {
            "email": "maya@example.com",
            "given_name": "Maya",
            "phone_number": "+12025550142",
            "address": {"locality": "Leeds"},
        }
    }
    assert state.tenants == {TENANT: {"id": TENANT, "name": "Acme", "properties": {"employees": 20}}}
    assert list(state.memberships) == [(USER, TENANT)]
    merged, linked, ad_hoc, joined = state.effects_of(USER)
    assert [effect.operation for effect in (merged, linked, ad_hoc, joined)] == [
        "POST /profiles/{user}",
        "POST /automations/{template}/invoke",
        "POST /automations/invoke",
        "PUT /users/{user}/tenants/{tenant}",
    ]
    order = {k: v for k, v in sample_calls()[1][1]["properties"].items() if sdk.sends_nulls or v is not None}
    assert (linked.params["template"], linked.body["recipient"]) == ("order-thanks", USER)
    assert linked.body["data"].items() >= (order | {"event": "Order Completed", "properties": order}).items()
    automation = sample_calls()[2][1]["properties"]["courier"]["automation"]
    assert ad_hoc.body == {
        "automation": {"steps": automation["steps"], "cancelation_token": "cart-1"},
        "recipient": USER,
        "data": {"cart": 1},
    }
    (of_anonymous,) = state.effects_of(ANONYMOUS)
    assert of_anonymous.body["data"]["anonymousId"] == ANONYMOUS
    assert [effect.body["data"]["total"] for n in range(CROWD) for effect in state.effects_of(f"customer-0{n}")] == [
        *range(CROWD)
    ]


async def test_an_app_s_sdk_uses_the_daemon_as_its_data_plane(
    daemon: DaemonProcess,
    courier: CourierApi,
    program: Program,
    duplicates: Callable[[DaemonProcess], Awaitable[int]],
) -> None:
    """Segment's Kotlin SDK fetches its settings here, and what an app's user does arrives; it keeps no order itself."""
    await daemon.start()
    of_an_app = [(kind, call) for kind, call in sample_calls()[:8] if kind != "page"]
    del of_an_app[1][1]["properties"]["note"]  # it takes no nulls
    key = daemon.settings["FORWARDER_INBOUND_KEYS"]

    assert await SEGMENT_KOTLIN.post(program, daemon.url, key, of_an_app) == []
    totals = await daemon.wait_for_totals(
        INBOUND, lambda totals: (totals["accepted"], totals["pending"]) == (7, 0), timeout_s=20
    )

    assert (totals["delivered"], totals["filtered"], totals["unmapped"]) == (4, 2, 1)
    assert await duplicates(daemon) == 0
    assert {effect.operation for effect in courier.state.effects_of(USER)} == {
        "POST /profiles/{user}",
        "POST /automations/{template}/invoke",
        "POST /automations/invoke",
        "PUT /users/{user}/tenants/{tenant}",
    }


async def test_sdks_with_a_wrong_key_are_told_at_once(daemon: DaemonProcess, program: Program) -> None:
    """An SDK that holds no key of ours gets the 401 that it expects: it reports every call and keeps nothing back."""
    await daemon.start()

    failed = await asyncio.gather(
        *(sdk.post(program, daemon.url, "not-a-key-of-ours", sample_calls()[:5]) for sdk in SDKS)
    )

    assert [len(errors) for errors in failed] == [5] * len(SDKS)
    words = ("401", "invalid write key", "Unauthorized")  # status, text (Java's) or reason: what they report differs
    assert all(any(word in error for word in words) for errors in failed for error in errors)
    assert (await daemon.totals(INBOUND))["accepted"] == 0


async def test_sdks_survive_a_restart_of_the_daemon(
    daemon: DaemonProcess, courier: CourierApi, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an SDK sends while the daemon is down arrives once it is up: the SDK's own retry finds it."""
    monkeypatch.setenv("RETRY_AFTER", "5s")  # of those that try ten times only
    await daemon.start()
    await daemon.kill()
    sdks = [sdk for sdk in SDKS if sdk.is_patient]
    key, users = daemon.settings["FORWARDER_INBOUND_KEYS"], [f"user-0-{sdk}" for sdk in sdks]

    *failed, _ = await asyncio.gather(
        *(
            sdk.post(program, daemon.url, key, [("identify", {"userId": user, "traits": {"plan": "pro"}})])
            for sdk, user in zip(sdks, users, strict=True)
        ),
        daemon.start(),
    )

    assert failed == [[]] * len(sdks)
    await daemon.wait_for_totals(INBOUND, lambda totals: totals["delivered"] == len(sdks))
    assert sorted(courier.state.profiles) == sorted(users)


async def test_a_batch_that_packs_well_is_taken(
    daemon: DaemonProcess, program: Program, duplicates: Callable[[DaemonProcess], Awaitable[int]]
) -> None:
    """Hundred events of 5 KB of zeros each, packed to some hundred bytes by the SDK, are taken whole, once."""
    await daemon.start()
    key, zeros = daemon.settings["FORWARDER_INBOUND_KEYS"], "0" * 5_000
    calls: Calls = [
        ("track", {"userId": f"customer-0{n}", "event": "Product Viewed", "properties": {"zeros": zeros}})
        for n in range(100)
    ]

    assert await Sdk("rudder_sdk_python.py", "gzip").post(program, daemon.url, key, calls) == []
    totals = await daemon.wait_for_totals(INBOUND, lambda totals: totals["pending"] == 0 and totals["accepted"] > 0)

    assert (totals["accepted"], totals["unmapped"], await duplicates(daemon)) == (100, 100, 0)


async def test_sdks_go_on_while_their_key_is_rotated(daemon: DaemonProcess, program: Program) -> None:
    """A second key is named, the SDKs change over, the first is taken away: no restart, and nobody is turned away."""
    secrets = daemon.folder / "secrets"
    secrets.mkdir()
    old = daemon.settings.pop("FORWARDER_INBOUND_KEYS")
    new, keys = f"{old}-of-next-year", secrets / "FORWARDER_INBOUND_KEYS"
    keys.write_text(old)
    daemon.settings["FORWARDER_SECRETS_DIR"] = str(secrets)
    await daemon.start()
    segment, rudder = Sdk("segment_analytics_python.py", "gzip"), Sdk("rudder_sdk_python.py", "gzip")

    async def rotate(text: str) -> None:
        before = daemon.logs().count("secrets.read")
        keys.write_text(text)
        for one in daemon.replicas:
            assert one.process is not None
            one.process.send_signal(signal.SIGHUP)

        async def is_read() -> bool:
            return daemon.logs().count("secrets.read") == before + len(daemon.replicas)

        await wait_until(is_read)

    await rotate(f"{new},{old}")
    both = [
        await sdk.post(program, daemon.url, key, sample_calls()[:2]) for sdk, key in ((segment, old), (rudder, new))
    ]
    await rotate(new)
    alone = [await sdk.post(program, daemon.url, new, sample_calls()[:2]) for sdk in (segment, rudder)]
    gone = await segment.post(program, daemon.url, old, sample_calls()[:2])

    assert (both, alone) == ([[], []], [[], []])
    assert ["401" in error for error in gone] == [True, True]
    assert (await daemon.totals(INBOUND))["accepted"] == 8
