"""What strangers' bodies cost: nothing once they are gone, and never more than the limit of all together."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from forwarder.ingress.listener import PublicListener
from forwarder.ingress.shared import ListenerLimits

MEGABYTE = 1_000_000
BODY_BYTES = 6 * MEGABYTE
WRONG = "courier-signature: t=1767225640123,signature=" + "0" * 64
HELD_BYTES_MAX = 30 * MEGABYTE

Send = Callable[..., Any]


def resident_bytes() -> int:
    """Return how much memory the process has."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Go without the garbage collector: the daemon lets it come rarely."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def listener(build_house: Callable[..., Any]) -> AsyncIterator[PublicListener]:
    """A listener that takes bodies of six megabytes, and thirty of all together."""
    house = build_house(body_bytes_max=BODY_BYTES)
    listener = PublicListener(
        addresses=[("127.0.0.1", 0)],
        receiver=house.receiver,
        health=house.health,
        spool=house.spool,
        reporter=house.reporter,
        limits=ListenerLimits(held_bytes_max=HELD_BYTES_MAX),
    )
    await listener.start()
    task = asyncio.create_task(listener.run())
    yield listener
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until_let_go(listener: PublicListener) -> None:
    """Wait until the listener has noticed that its clients are gone."""
    async with asyncio.timeout(60):
        while listener.shared.in_flight or listener.shared.held_bytes:  # noqa: ASYNC110  it tells nobody of its counts
            await asyncio.sleep(0.01)


@pytest.fixture
def send(listener: PublicListener) -> Send:
    """Return what sends so much of a body of six megabytes with a wrong signature; it returns the answer."""
    body = bytes(BODY_BYTES)

    async def sent(size: int, *, then_waits_for: asyncio.Event | None = None) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.ports[0])
        head = f"POST /webhooks/courier HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_BYTES}\r\n{WRONG}\r\n\r\n"
        answer = b""
        with suppress(ConnectionError):
            writer.write(head.encode())
            for start in range(0, size, 100_000):
                writer.write(body[start : start + 100_000])
                await writer.drain()
            if then_waits_for is not None:
                await then_waits_for.wait()
            if size == BODY_BYTES:
                answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    return sent


@pytest.mark.parametrize("size", [BODY_BYTES - 100_000, BODY_BYTES], ids=["broken off", "whole"])
@pytest.mark.usefixtures("no_collector")
async def test_refused_bodies_leave_nothing(listener: PublicListener, send: Send, size: int) -> None:
    """A hundred and more bodies without a credential, broken off or whole, leave the process as large as it was."""
    for _ in range(5):
        await send(size)
    before = resident_bytes()
    for _ in range(100):
        answer = await send(size)
        assert answer.startswith(b"HTTP/1.1 429 ") is (size == BODY_BYTES)
    await until_let_go(listener)
    assert resident_bytes() - before < 15 * MEGABYTE


@pytest.mark.usefixtures("no_collector")
async def test_bodies_at_once_stay_below_their_limit(listener: PublicListener, send: Send) -> None:
    """However many strangers send at once, the process grows by the limit of all bodies alone, and shrinks again."""
    before = resident_bytes()
    over = asyncio.Event()
    clients = [asyncio.create_task(send(BODY_BYTES - 100_000, then_waits_for=over)) for _ in range(40)]
    largest = held = looks = 0
    async with asyncio.timeout(60):
        while held <= HELD_BYTES_MAX / 2 or looks < 50:  # until the limit has been felt, and a little longer
            await asyncio.sleep(0.01)
            looks += held > HELD_BYTES_MAX / 2
            largest, held = max(largest, resident_bytes()), max(held, listener.shared.held_bytes)
    over.set()
    await asyncio.gather(*clients)
    assert held <= HELD_BYTES_MAX + MEGABYTE
    assert largest - before < 2 * HELD_BYTES_MAX + 20 * MEGABYTE
    await until_let_go(listener)
    async with asyncio.timeout(60):
        while resident_bytes() - before > 20 * MEGABYTE:  # noqa: ASYNC110  memory tells nobody either
            await asyncio.sleep(0.05)
