"""The one place that reads the clocks. Everything else is given the time, or this."""

import asyncio
import time
from contextlib import suppress


class SystemClock:
    """The machine's clocks, as `ports.Clock` asks for."""

    def wall_ms(self) -> int:
        """Return milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""
        return time.monotonic()


async def wait_within(seconds: float, event: asyncio.Event) -> None:
    """Wait until the event is set, but no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
