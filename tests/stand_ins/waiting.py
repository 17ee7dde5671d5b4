"""Wait for a fact, not for a time."""

import asyncio
from collections.abc import Awaitable, Callable

_LOOK_AGAIN_S = 0.01


async def wait_until(is_so: Callable[[], Awaitable[bool] | bool], *, within_s: float = 60.0) -> None:
    """Return once it is so; raise `TimeoutError` when it has not come true in time."""
    async with asyncio.timeout(within_s):
        while True:
            found = is_so()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
