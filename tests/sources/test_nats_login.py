"""Every login that NATS knows, on a real server: the words are ours, and no secret is in them."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest
from nacl.signing import SigningKey

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.sources.jetstream import JetStream
from forwarder.sources.nats_connection import NatsSettings
from forwarder.sources.nats_login import CredentialsInvalid, login_of
from stand_ins.connections import serving
from stand_ins.nats_server import MISSING, PROGRAM, NatsServer

_KINDS = {"O": 14 << 3, "A": 0, "U": 20 << 3}
_REAL = pytest.mark.skipif(PROGRAM is None, reason=MISSING)
Buses = Callable[..., Awaitable[JetStream]]


class _Key:
    """An nkey of a kind: operator, account or user."""

    def __init__(self, kind: str) -> None:
        self.signing, self.prefix = SigningKey.generate(), _KINDS[kind]

    @property
    def public(self) -> str:
        return _text(bytes((self.prefix,)) + bytes(self.signing.verify_key))

    @property
    def seed(self) -> str:
        head = bytes((18 << 3 | self.prefix >> 5, (self.prefix & 31) << 3))
        return _text(head + bytes(self.signing))

    def jwt(self, subject: str, nats: Mapping[str, Any]) -> str:
        """Return a JWT of NATS' own form, signed by this key."""
        claims = {"jti": "x", "iat": 1, "iss": self.public, "name": "n", "sub": subject, "nats": {**nats, "version": 2}}
        signed = f"{_packed({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_packed(claims)}"
        return f"{signed}.{_url64(self.signing.sign(signed.encode()).signature)}"


def _text(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).rstrip(b"=").decode()


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _packed(value: Mapping[str, Any]) -> str:
    return _url64(json.dumps(value).encode())


@pytest.fixture
async def bus_on(tmp_path: Path) -> AsyncIterator[Buses]:
    """Yield what starts a server with these options and makes a bus on it; no stream is there."""
    async with AsyncExitStack() as stack:

        async def start(
            options: Mapping[str, Any], *, login: str = "", scheme: str = "nats", **settings: Any
        ) -> JetStream:
            server = NatsServer(folder=tmp_path, options=options)
            await server.start()
            stack.push_async_callback(server.kill)
            url = f"{scheme}://{login}{server.address}"
            bus = JetStream(NatsSettings(urls=[url], stream="NONE", **settings), clock=SystemClock())
            stack.push_async_callback(bus.close)
            return bus

        yield start


async def _said(bus: JetStream) -> str:
    with pytest.raises(SourceAway) as raised:
        await bus.prove()
    return str(raised.value)


_IN = "there is no stream NONE"  # what is said once the login is through
_OUT = "NATS refuses the login"


@_REAL
@pytest.mark.parametrize(
    ("options", "login", "said"),
    [
        ({"authorization": {"user": "u", "password": "sesame"}}, "u:sesame@", _IN),
        ({"authorization": {"user": "u", "password": "sesame"}}, "u:wrong@", _OUT),
        ({"authorization": {"user": "u", "password": "sesame"}}, "", _OUT),
        ({"authorization": {"user": "u", "password": "p@s/%"}}, "u:p%40s%2F%25@", _IN),
        ({"authorization": {"token": "sesame"}}, "sesame@", _IN),
        ({"authorization": {"token": "sesame"}}, "wrong@", _OUT),
        ({}, "", _IN),
    ],
)
async def test_logins_of_the_url(bus_on: Buses, options: Mapping[str, Any], login: str, said: str) -> None:
    """User and password, or a token, stand in the URL; what is wrong is told apart from what is missing there."""
    assert await _said(await bus_on(options, login=login)) == said


@_REAL
async def test_credentials_of_nsc(bus_on: Buses, tmp_path: Path) -> None:
    """A .creds file proves us to a server that trusts an operator."""
    operator, system, account, user = _Key("O"), _Key("A"), _Key("A"), _Key("U")
    kinds = ("subs", "conn", "data", "payload", "mem_storage", "disk_storage", "streams", "consumer")
    limits = {"type": "account", "limits": dict.fromkeys(kinds, -1)}
    bare = {"type": "account", "limits": dict.fromkeys(kinds[:4], -1)}
    options = {
        "operator": operator.jwt(operator.public, {"type": "operator"}),
        "system_account": system.public,
        "resolver": "MEMORY",
        "resolver_preload": {
            system.public: operator.jwt(system.public, bare),
            account.public: operator.jwt(account.public, limits),
        },
    }
    file = tmp_path / "user.creds"
    jwt = account.jwt(user.public, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )

    assert await _said(await bus_on(options, credentials=file)) == _IN


@_REAL
async def test_a_seed_alone(bus_on: Buses, tmp_path: Path) -> None:
    """A server that knows users by their public nkey takes a file with the seed alone."""
    user, file = _Key("U"), tmp_path / "user.nk"
    file.write_text(user.seed + "\n")

    assert await _said(await bus_on({"authorization": {"users": [{"nkey": user.public}]}}, credentials=file)) == _IN


@_REAL
async def test_rights_that_are_missing_are_named(bus_on: Buses) -> None:
    """Who may log in but not read the stream is told which right is missing."""
    user = {"user": "u", "password": "sesame", "permissions": {"publish": ["x"], "subscribe": [">"]}}
    bus = await bus_on({"authorization": {"users": [user]}}, login="u:sesame@")

    assert "no right for publish to" in (said := await _said(bus))
    assert "consumer.info.none.forwarder" in said


@_REAL
@pytest.mark.parametrize("right", ["$JS.API.CONSUMER.MSG.NEXT.NONE.forwarder", "$JS.ACK.NONE.forwarder.>"])
async def test_who_may_not_read_or_acknowledge_is_away(tmp_path: Path, right: str) -> None:
    """What NATS refuses without an answer is said while the daemon runs, too (control: who may, reads)."""
    free = {"user": "free", "password": "x"}
    bound = {"user": "u", "password": "x", "permissions": {"publish": {"deny": [right]}}}
    server = NatsServer(folder=tmp_path, options={"authorization": {"users": [free, bound]}})
    await server.start()
    settings = NatsSettings(urls=[f"nats://free:x@{server.address}"], stream="NONE")
    client = await nats.connect(settings.urls[0])
    await client.jetstream().add_stream(name="NONE", subjects=["a"])
    await client.jetstream().publish("a", b"{}")
    await client.close()
    bus = JetStream(replace(settings, urls=[f"nats://u:x@{server.address}"]), clock=SystemClock())

    for _ in range(2):
        with pytest.raises(SourceAway, match="no right for publish to"):
            await bus.fetch(messages_max=1, bytes_max=1_000)
    bus.set_up(settings)
    assert (await bus.fetch(messages_max=1, bytes_max=1_000)).messages
    await bus.close()
    await server.kill()


@_REAL
async def test_jetstream_that_is_off_is_said(bus_on: Buses) -> None:
    """It is no matter of the network."""
    assert await _said(await bus_on({"jetstream": False})) == "JetStream is not on there, or not for this account"


_SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"  # of the documentation of nkeys


@_REAL
@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls(bus_on: Buses, certificate: tuple[Path, Path], scheme: str) -> None:
    """An own authority is taken when it is named; a server may ask for our certificate, and insist on TLS."""
    cert, key = certificate
    tls = {"cert_file": str(cert), "key_file": str(key), "ca_file": str(cert), "verify": True}

    bus = await bus_on({"tls": tls}, scheme=scheme, ca_file=cert, cert_file=cert, key_file=key)

    assert await _said(bus) == _IN


@_REAL
async def test_a_stranger_is_not_told_the_password(bus_on: Buses, certificate: tuple[Path, Path]) -> None:
    """Neither one with a certificate that nobody vouches for, nor one without TLS where it was asked for."""
    cert, key = certificate
    bus = await bus_on({"tls": {"cert_file": str(cert), "key_file": str(key)}}, login="u:sesame@", scheme="tls")

    assert (await _said(bus)).startswith("TLS with NATS fails: self-signed certificate")


async def test_a_server_without_tls_is_told_nothing() -> None:
    """Where TLS is asked for, no login leaves in the clear (control: without, it does)."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"headers":true}\r\n')
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(1):
                heard.append(await reader.read(1_000))

    async with serving(serve) as port:
        for scheme, said in (("tls", "TLS is asked for, and this NATS has none"), ("nats", "")):
            url = f"{scheme}://u:sesame@127.0.0.1:{port}"
            assert said in await _said(JetStream(NatsSettings(urls=[url], stream="S"), clock=SystemClock()))

    assert [b"sesame" in one for one in heard if one] == [True]


@pytest.mark.parametrize("hello", [b"INFO []\r\n", b"INFO 5\r\n", b"INFO " + b"x" * 200_000 + b"\r\n"])
async def test_what_does_not_speak_as_nats_does_is_away(hello: bytes) -> None:
    """Whatever answers at the address, the daemon lives on and tries again."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello)

    async with serving(serve) as port:
        bus = JetStream(NatsSettings(urls=[f"nats://127.0.0.1:{port}"], stream="S"), clock=SystemClock())
        assert await _said(bus) == "what answers there does not speak as NATS does"


@pytest.mark.parametrize("text", ["", "SUAB", "SUÄB", "SAAB", "a b", _SEED[:-1] + "A", f"{_SEED} {_SEED}"])
def test_a_file_without_credentials_is_refused(tmp_path: Path, text: str) -> None:
    """The words say what is missing and quote nothing."""
    file = tmp_path / "user.creds"
    file.write_text(text)
    with pytest.raises(CredentialsInvalid) as raised:
        login_of(file)

    assert not text or text not in str(raised.value)


def test_a_login_shows_nothing(tmp_path: Path) -> None:
    """Neither seed nor JWT is in its repr."""
    file = tmp_path / "user.nk"
    file.write_text(_SEED)

    assert repr(login_of(file)) == "Login()"
