"""Which event was applied to a tenant last, and whose turn it is: locks in memory, order in the spool.

The lock is held for one attempt only. It is no queue: an event that waits for its retry holds nobody up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from forwarder.errors import SpoolClosed, SpoolFull

_SHARDS: Final = 256
_TENANTS_PER_SHARD_MAX: Final = 400  # the longest untouched ones are forgotten first; 100,000 tenants in all


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own, durable."""

    async def remember(self, key: str, value: bytes) -> None:
        """Keep the value under the key."""

    async def recall(self, key: str) -> bytes | None:
        """Return what was kept, or None."""


class TenantOrder:
    """Serialise the writers of one tenant, and know the newest sequence that was applied to each.

    Durable, because an older event may wait for its retry across a restart. Memory is bounded: locks
    exist while somebody holds or awaits them.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._locks: dict[str, _CountedLock] = {}
        self._shards: dict[str, dict[str, int]] = {}

    @asynccontextmanager
    async def turn(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait until no other event is being applied to this tenant; the turn ends with the block."""
        counted = self._locks.setdefault(tenant_id, _CountedLock())
        counted.users += 1
        try:
            async with counted.lock:
                yield
        finally:
            counted.users -= 1
            if not counted.users:
                del self._locks[tenant_id]

    async def newest(self, tenant_id: str) -> int:
        """Return the newest sequence applied to the tenant; 0 when none is known."""
        key, digest = _place(tenant_id)
        return (await self._shard(key)).get(digest, 0)

    async def was_applied(self, tenant_id: str, sequence: int) -> None:
        """Keep that this event was applied. Call it within the tenant's turn, before telling anyone."""
        key, digest = _place(tenant_id)
        shard = await self._shard(key)
        newest = max(sequence, shard.pop(digest, 0))
        shard[digest] = newest  # at the end: the order of the dict is the order of last touch
        while len(shard) > _TENANTS_PER_SHARD_MAX:
            del shard[next(iter(shard))]
        # With the disk full the order still holds until a restart; the event was applied all the same.
        with suppress(SpoolFull, SpoolClosed):
            await self._memory.remember(key, msgspec.json.encode(shard))

    async def _shard(self, key: str) -> dict[str, int]:
        if key not in self._shards:
            kept = await self._memory.recall(key)
            # Another task may have loaded it meanwhile: the first copy stays the one that all share.
            self._shards.setdefault(key, msgspec.json.decode(kept, type=dict[str, int]) if kept else {})
        return self._shards[key]


class _CountedLock:
    """A lock that knows how many hold or await it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


def _place(tenant_id: str) -> tuple[str, str]:
    """Return the shard's key and the tenant's name in it: digests, so that no id is too long."""
    digest = blake2b(tenant_id.encode(), digest_size=12).hexdigest()
    return f"tenants:{int(digest[:4], 16) % _SHARDS:02x}", digest
