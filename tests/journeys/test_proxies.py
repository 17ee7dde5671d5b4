"""The reverse-proxy samples, each in its real proxy: what the daemon needs gets through, what it believes is true."""

import io
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow
from forwarder.settings import Settings
from stand_ins.listener import HOST, Asked, Said, StandIn
from stand_ins.process import DaemonProcess
from stand_ins.proxies import PAGE, PROGRAMS, PUBLIC, SAMPLES, Certificate, proxy

_IDLE_MAX_S = Settings.model_fields["idle_max_s"].default
_BODY_BYTES_MAX = Settings.model_fields["body_bytes_max"].default
_STRANGER = "203.0.113.7"

_TOKEN = "journey-operator-token-1f"

StartProxy = Callable[[str], AbstractContextManager[int]]
RunSample = Callable[..., AbstractContextManager[int]]


class Upstream(StandIn):
    """What stands for the daemon: it keeps what came and says yes."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.asked: list[Asked] = []

    async def _answer(self, asked: Asked) -> Said:
        self.asked.append(asked)
        return Said(status=200, body=b"{}", headers={"Retry-After": "7"})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Return a certificate of both names."""
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Both listeners of a daemon, as one."""
    async with Upstream() as running:
        yield running


@pytest.fixture(params=sorted(SAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    """Return each proxy that can be had."""
    found: str = request.param
    if PROGRAMS[found] is None:
        pytest.skip(f"{found} is not on this machine (Debian's package {found})")
    return found


@pytest.fixture
def run_sample(checkout: Path, tmp_path: Path, certificate: Certificate) -> RunSample:
    """Return how to run a proxy with its sample in front of two listeners; `without` takes out lines that hold it."""

    def run(name: str, public_url: str, page_url: str, *, without: str = "") -> AbstractContextManager[int]:
        text = (checkout / "deploy/proxy" / SAMPLES[name]).read_text()
        for usual, url in (("127.0.0.1:8080", public_url), ("127.0.0.1:8081", page_url)):
            assert usual in text
            text = text.replace(usual, url.removeprefix("http://"))
        kept = [line for line in text.splitlines() if not without or without not in line]
        assert bool(without) == (len(kept) < len(text.splitlines()))
        return proxy(name, "\n".join(kept), tmp_path, certificate)

    return run


@pytest.fixture
def start(name: str, run_sample: RunSample, upstream: Upstream) -> StartProxy:
    """Return how to run the proxy in front of the stand-in."""
    return lambda without: run_sample(name, upstream.url, upstream.url, without=without)


class _Loopback(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[Any]:
        return [{"hostname": host, "host": HOST, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """Hold nothing."""


def _client(certificate: Certificate) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=certificate.certificate)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_Loopback(), ssl=context))


async def test_a_request_arrives_as_it_was_sent(
    start: StartProxy, upstream: Upstream, certificate: Certificate
) -> None:
    """Body, signature, key, trace and target are the sender's; the answer, with its headers, is the daemon's."""
    body = b' {"type": "message:updated"}\r\n\x00\xff '
    sent = {
        "courier-signature": "t=1,signature=ab",
        "Authorization": "Basic a2V5Og==",
        "traceparent": f"00-{1:032x}-{1:016x}-01",
        "Content-Encoding": "identity",
    }
    with start("") as port:
        async with (
            _client(certificate) as http,
            http.post(f"https://{PUBLIC}:{port}/v1/track?writeKey=a%2Fb", data=body, headers=sent) as answer,
        ):
            assert (answer.status, answer.headers["Retry-After"]) == (200, "7")
    (asked,) = upstream.asked
    assert (asked.body, asked.path, dict(asked.query)) == (body, "/v1/track", {"writeKey": "a/b"})
    assert {name.lower(): text for name, text in sent.items()}.items() <= asked.headers.items()


async def test_who_asks_and_how_is_the_proxys_word(
    start: StartProxy, upstream: Upstream, certificate: Certificate
) -> None:
    """The host is the one asked for, the protocol TLS, the last address the connection's, whatever a client claims."""
    claimed = {"X-Forwarded-For": _STRANGER, "X-Forwarded-Proto": "http"}
    with start("") as port:
        async with _client(certificate) as http:
            for host in (PUBLIC, PAGE):
                await http.post(f"https://{host}:{port}/", headers=claimed)
    assert [asked.headers["host"] for asked in upstream.asked] == [f"{PUBLIC}:{port}", f"{PAGE}:{port}"]
    assert {asked.headers["x-forwarded-proto"] for asked in upstream.asked} == {"https"}
    assert upstream.asked[0].headers["x-forwarded-for"].split(", ")[-1] == HOST


async def test_bodies_are_the_daemons_to_judge(start: StartProxy, upstream: Upstream, certificate: Certificate) -> None:
    """What the daemon takes gets through, and so does what it refuses: a proxy's own 413 would be final to a vendor."""
    with start("") as port:
        async with _client(certificate) as http:
            for size in (_BODY_BYTES_MAX, _BODY_BYTES_MAX + 1):
                async with http.post(
                    f"https://{PUBLIC}:{port}/webhooks/courier", data=io.BytesIO(os.urandom(size))
                ) as answer:
                    assert answer.status == 200
    assert [len(asked.body) for asked in upstream.asked] == [_BODY_BYTES_MAX, _BODY_BYTES_MAX + 1]


@pytest.mark.parametrize("name", ["nginx"], indirect=True)
async def test_without_its_line_nginx_turns_bodies_away(
    start: StartProxy, upstream: Upstream, certificate: Certificate
) -> None:
    """The control: from one MiB on nginx answers 413 by itself."""
    with start("client_max_body_size") as port:
        async with (
            _client(certificate) as http,
            http.post(
                f"https://{PUBLIC}:{port}/webhooks/courier", data=io.BytesIO(os.urandom(_BODY_BYTES_MAX))
            ) as answer,
        ):
            assert answer.status == 413
    assert upstream.asked == []


@pytest.mark.parametrize("without", ["", "X-Forwarded-User"], ids=["sample", "control"])
async def test_nobody_names_himself_to_the_page(
    start: StartProxy, upstream: Upstream, certificate: Certificate, without: str
) -> None:
    """The header that FORWARDER_OPERATOR_USER_HEADER believes does not get through; without its line it would."""
    with start(without) as port:
        async with _client(certificate) as http:
            await http.get(f"https://{PAGE}:{port}/", headers={"X-Forwarded-User": "mallory"})
    assert upstream.asked[0].headers.get("x-forwarded-user") == ("mallory" if without else None)


@pytest.mark.journey
async def test_the_daemon_works_behind_it(
    make_daemon: Callable[[dict[str, str]], DaemonProcess],
    outbound: dict[str, str],
    name: str,
    run_sample: RunSample,
    certificate: Certificate,
) -> None:
    """A signed webhook is taken, and so is a change on the page, which must come from its own site."""
    daemon = make_daemon(outbound | {"FORWARDER_OPERATOR_TOKEN": _TOKEN})
    await daemon.start()
    now_ms = time.time_ns() // 1_000_000
    event = Workflow(seed=1).sample("SENT", now_ms)
    with run_sample(name, daemon.url, daemon.operator_url) as port:
        page = f"https://{PAGE}:{port}"
        async with _client(certificate) as http:
            headers = signed(event.body, outbound["COURIER_WEBHOOK_SECRET"], now_ms)
            async with http.post(f"https://{PUBLIC}:{port}/webhooks/courier", data=event.body, headers=headers) as said:
                assert (said.status, await said.json()) == (200, {"accepted": 1, "duplicates": 0})
            for origin, status in ((page, 200), (f"https://{PUBLIC}:{port}", 403)):
                login = {"Authorization": f"Bearer {_TOKEN}", "Origin": origin}
                async with http.post(f"{page}/api/routes/courier_to_rudderstack/pause", headers=login) as said:
                    assert said.status == status


def test_traefiks_sample_says_the_same(checkout: Path) -> None:
    """Two routers over TLS, to the two usual ports; the user's header is emptied; kept connections end in time."""
    http = yaml.safe_load((checkout / "deploy/proxy/traefik.yaml").read_text())["http"]
    routers, services = http["routers"], http["services"]
    assert [router["rule"] for router in routers.values()] == [f"Host(`{PUBLIC}`)", f"Host(`{PAGE}`)"]
    assert all(router["tls"] and router["service"] in services for router in routers.values())
    servers = [service["loadBalancer"]["servers"] for service in services.values()]
    assert servers == [[{"url": "http://127.0.0.1:8080"}], [{"url": "http://127.0.0.1:8081"}]]
    (middleware,) = routers["forwarder-page"]["middlewares"]
    assert http["middlewares"][middleware]["headers"]["customRequestHeaders"] == {"X-Forwarded-User": ""}
    transport = http["serversTransports"][services["forwarder"]["loadBalancer"]["serversTransport"]]
    assert float(transport["forwardingTimeouts"]["idleConnTimeout"].removesuffix("s")) < _IDLE_MAX_S
