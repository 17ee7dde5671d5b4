"""The gate passes bytes on, and breaks, silences or refuses connections when told."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stand_ins.connections import serving
from stand_ins.gate import Gate
from stand_ins.listener import HOST


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    """Return the port of a server that says everything again."""

    async def again(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1_024):
            writer.write(piece)

    async with serving(again) as port:
        yield port


async def test_a_gate_passes_on_stalls_and_cuts(echo_port: int) -> None:
    """What is sent while it stalls comes when it flows; a cut breaks the connection, and the next one works."""
    async with asyncio.timeout(60), Gate(lambda: echo_port) as gate:
        reader, writer = await asyncio.open_connection(HOST, gate.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        gate.stall()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting := asyncio.create_task(reader.readexactly(3))), 0.05)
        gate.flow()
        assert await waiting == b"two"
        assert gate.cut() == 1
        assert await _is_broken(reader)
        writer.close()
        reader, writer = await asyncio.open_connection(HOST, gate.port)
        writer.write(b"new")
        assert await reader.readexactly(3) == b"new"
        writer.close()


async def test_a_gate_without_upstream_hangs_up() -> None:
    """Nobody behind it, or shut: a connection ends at once."""
    async with asyncio.timeout(60), Gate(lambda: None) as gate:
        reader, writer = await asyncio.open_connection(HOST, gate.port)
        assert await _is_broken(reader)
        writer.close()


async def _is_broken(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True
