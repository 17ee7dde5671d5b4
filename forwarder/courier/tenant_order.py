"""Which event was applied to a tenant last, and whose turn it is: locks in memory, order in the spool.

The lock is held for one attempt only. It is no queue: an event that waits for its retry holds nobody up.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from forwarder.errors import SpoolClosed, SpoolFull

_SHARDS: Final = 256
_TENANTS_PER_SHARD_MAX: Final = 400  # the longest untouched ones are forgotten first; 100,000 tenants in all


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own, durable."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep the value under the key."""

    async def get(self, key: str) -> bytes | None:
        """Return what was kept, or None."""


class Tenant:
    """One tenant while somebody is at it: hold `lock` to write it, and count every write in `writes`."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.writes = 0
        self.visitors = 0


class TenantOrder:
    """Serialise the writers of one tenant, and know the newest sequence that was applied to each.

    Durable, because an older event may wait for its retry across a restart. Memory is bounded: tenants
    exist here while somebody is at them, and what was applied last is kept for a bounded number.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._tenants: dict[str, Tenant] = {}
        self._shards: dict[str, dict[str, int]] = {}

    @contextmanager
    def visit(self, tenant_id: str) -> Iterator[Tenant]:
        """Give the tenant that all visitors of this id share, for as long as the block lasts."""
        tenant = self._tenants.setdefault(tenant_id, Tenant())
        tenant.visitors += 1
        try:
            yield tenant
        finally:
            tenant.visitors -= 1
            if not tenant.visitors:
                del self._tenants[tenant_id]

    async def newest(self, tenant_id: str) -> int:
        """Return the newest sequence applied to the tenant; 0 when none is known."""
        key, digest = _place(tenant_id)
        return (await self._shard(key)).get(digest, 0)

    async def applied(self, tenant_id: str, sequence: int) -> None:
        """Note that this event was applied. Call it under the tenant's lock."""
        key, digest = _place(tenant_id)
        shard = await self._shard(key)
        newest = max(sequence, shard.pop(digest, 0))
        shard[digest] = newest  # at the end: the order of the dict is the order of last touch
        while len(shard) > _TENANTS_PER_SHARD_MAX:
            del shard[next(iter(shard))]

    async def keep(self, tenant_id: str) -> None:
        """Make what was noted durable. Call it before telling anyone; the lock need not be held."""
        key, _ = _place(tenant_id)
        # With the disk full the order still holds until a restart; the event was applied all the same.
        with suppress(SpoolFull, SpoolClosed):
            await self._memory.put(key, msgspec.json.encode(await self._shard(key)))

    async def _shard(self, key: str) -> dict[str, int]:
        if key not in self._shards:
            kept = await self._memory.get(key)
            # Another task may have loaded it meanwhile: the first copy stays the one that all share.
            self._shards.setdefault(key, msgspec.json.decode(kept, type=dict[str, int]) if kept else {})
        return self._shards[key]


def _place(tenant_id: str) -> tuple[str, str]:
    """Return the shard's key and the tenant's name in it: digests, so that no id is too long."""
    digest = blake2b(tenant_id.encode(), digest_size=12).hexdigest()
    return f"tenants:{int(digest[:4], 16) % _SHARDS:02x}", digest
