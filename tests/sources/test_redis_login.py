"""Every login that Redis knows, on a real server: the words are ours, and no secret is in them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.sources.redis_connection import RedisSettings
from forwarder.sources.redis_streams import RedisStreams
from stand_ins.redis_server import MISSING, PROGRAM, RedisServer

_REAL = pytest.mark.skipif(PROGRAM is None, reason=MISSING)
_IN = "group forwarder reads events as a; 0 messages wait"
_READS = ("xgroup|create", "xreadgroup", "xautoclaim", "xclaim", "xack", "xinfo|groups")
_ACL = ["--user", "default", "off", "--user", "reader", "on", ">ses@me:1", "~events", *(f"+{one}" for one in _READS)]
Buses = Callable[..., Awaitable[RedisStreams]]


@pytest.fixture
async def bus_on(tmp_path: Path) -> AsyncIterator[Buses]:
    """Yield what starts a server with these options and makes a consumer of it."""
    async with AsyncExitStack() as stack:

        async def make(
            options: Sequence[str] = (), *, login: str = "", scheme: str = "redis", is_tls: bool = False, **files: Any
        ) -> RedisStreams:
            server = RedisServer(folder=tmp_path, options=options, is_tls=is_tls)
            await server.start()
            stack.push_async_callback(server.kill)
            bus = RedisStreams(_settings(f"{scheme}://{login}{server.address}", **files), clock=SystemClock())
            stack.push_async_callback(bus.close)
            return bus

        yield make


def _settings(url: str, **files: Any) -> RedisSettings:
    return RedisSettings(url=url, streams=["events"], consumer="a", **files)


async def _said(bus: RedisStreams) -> str:
    try:
        return await bus.prove()
    except SourceAway as error:
        return str(error)


@_REAL
@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("reader:ses%40me%3A1@", _IN),
        ("reader:yesterday@", "Redis refuses the login"),
        ("other:ses%40me%3A1@", "Redis refuses the login"),
        ("", "Redis refuses the login"),
    ],
)
async def test_a_user_with_a_password(bus_on: Buses, login: str, said: str) -> None:
    """The rights that the documentation names are enough; a wrong login is told, without a word of it."""
    assert await _said(await bus_on(_ACL, login=login)) == said


@_REAL
async def test_a_password_alone(bus_on: Buses) -> None:
    """`requirepass`, as it was before there were users."""
    assert await _said(await bus_on(["--requirepass", "sesame"], login=":sesame@")) == _IN


@_REAL
async def test_a_url_that_was_replaced_counts_at_the_next_connection(bus_on: Buses) -> None:
    """A password that was rotated needs no restart."""
    bus = await bus_on(["--requirepass", "sesame"], login=":yesterday@")
    assert await _said(bus) == "Redis refuses the login"
    bus.set_up(_settings(bus._settings.url.replace("yesterday", "sesame")))  # noqa: SLF001 - the address is in it
    await bus.close()
    assert await _said(bus) == _IN


@_REAL
@pytest.mark.parametrize("missing", [one for one in _READS if not one.startswith(("xgroup", "xinfo"))])
async def test_a_right_that_is_missing_is_named(bus_on: Buses, missing: str) -> None:
    """Each of those without which nothing can be taken in."""
    rights = [one for one in _ACL if one != f"+{missing}"]
    assert await _said(await bus_on(rights, login="reader:ses%40me%3A1@")) == f"this Redis user may not run {missing}"


@_REAL
async def test_rights_that_can_be_spared(bus_on: Buses) -> None:
    """A group that somebody else made needs no right to make it; without `xinfo` the lag is not known."""
    rights = [one for one in _ACL if not one.startswith(("+xgroup", "+xinfo"))]
    bus = await bus_on([*rights, "--user", "admin", "on", "nopass", "~*", "+@all"], login="reader:ses%40me%3A1@")
    assert await _said(bus) == "the consumer group is gone, or was never made"
    async with Redis.from_url(bus._settings.url.replace("reader:ses%40me%3A1", "admin:"), protocol=2) as admin:  # noqa: SLF001 - the address is in it
        await admin.xgroup_create("events", "forwarder", id="0", mkstream=True)
    await bus.close()
    assert await _said(bus) == "group forwarder reads events as a; how many messages wait is not known"


@_REAL
async def test_a_key_that_is_no_stream_and_one_that_is_not_ours(bus_on: Buses) -> None:
    """Both are told."""
    bus = await bus_on()
    async with Redis.from_url(bus._settings.url, protocol=2) as redis:  # noqa: SLF001 - the address is in it
        await redis.set("events", "text")
        assert await _said(bus) == "the key is there, but no stream"
        await redis.acl_setuser("default", enabled=True, keys=["other"], reset_keys=True)
    assert await _said(bus) == "this Redis user may not touch the stream"


@_REAL
async def test_a_cluster_is_told(bus_on: Buses) -> None:
    """It is not spoken to, and that is said instead of an error's code."""
    assert "cluster" in await _said(await bus_on(["--cluster-enabled", "yes"]))


@_REAL
async def test_tls(bus_on: Buses, certificate: tuple[Path, Path]) -> None:
    """An own authority is taken when it is named; the server may ask for our certificate."""
    cert, key = certificate
    options = ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-ca-cert-file", str(cert)]
    bus = await bus_on(options, scheme="rediss", is_tls=True, ca_file=cert, cert_file=cert, key_file=key)
    assert await _said(bus) == _IN
    for files in ({"ca_file": cert}, {"cert_file": cert, "key_file": key}):
        await bus.close()
        bus.set_up(_settings(bus._settings.url, **files))  # noqa: SLF001 - the address is in it
        assert await _said(bus) == "Redis cannot be reached"


@_REAL
async def test_a_socket_of_this_machine(bus_on: Buses, tmp_path: Path) -> None:
    """Without a network, with a login as ever."""
    path = tmp_path / "s"
    bus = await bus_on(["--unixsocket", str(path), "--requirepass", "sesame"])
    bus.set_up(_settings(f"unix://:sesame@{path}"))
    assert await _said(bus) == _IN


def test_nothing_secret_is_shown() -> None:
    """Neither the settings' nor the consumer's repr holds the URL."""
    settings = _settings("redis://u:sesame@h")
    assert "sesame" not in repr(settings) + repr(RedisStreams(settings, clock=SystemClock()))
