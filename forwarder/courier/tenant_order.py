"""Which event was applied to a tenant last, and whose turn it is: locks in memory, order in the spool.

The lock is held for one attempt only. It is no queue: an event that waits for its retry holds nobody up. Between
replicas it stands in the spool, too, and lapses by itself where its holder is gone.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from hashlib import blake2b
from typing import Final, Protocol

import msgspec

from forwarder.clock import SystemClock
from forwarder.errors import SpoolClosed, SpoolFull

_LOCK_MS: Final = 25_000  # above what two exchanges with Courier may take: one reads, one writes
_CLAIM_AGAIN_S: Final = 0.05
_CLOCK: Final = SystemClock()
_SHARDS: Final = 256
_TENANTS_PER_SHARD_MAX: Final = 400  # the longest untouched ones are forgotten first; 100,000 tenants in all


class Memory(Protocol):
    """The part of the spool that keeps small values of the daemon's own, durable."""

    @property
    def has_replicas(self) -> bool:
        """Tell whether other processes may be at work on the same tenants."""

    async def get(self, key: str) -> bytes | None:
        """Return what was kept, or None."""

    async def change(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace it by what `change` makes of it; see `ports.Spool.change`."""


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
        self._who = secrets.token_hex(8)

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

    @property
    def has_replicas(self) -> bool:
        """Tell whether what was read without the lock may be old, whatever `writes` says."""
        return self._memory.has_replicas

    @asynccontextmanager
    async def locked(self, tenant_id: str, tenant: Tenant) -> AsyncIterator[None]:
        """Have the tenant to oneself, at this replica and over all. One that is gone keeps it for a while at most."""
        async with tenant.lock:
            if not self.has_replicas:
                yield
                return
            key, digest = _place(tenant_id)
            key = f"{key} locks"
            await self._claim(key, digest)
            try:
                yield
            finally:
                with suppress(SpoolFull, SpoolClosed):  # then it lapses by itself
                    await self._memory.change(key, partial(_without, digest=digest, who=self._who))

    async def newest(self, tenant_id: str) -> int:
        """Return the newest sequence applied to the tenant; 0 when none is known."""
        key, digest = _place(tenant_id)
        shard = await self._shard(key)
        if self.has_replicas:
            with suppress(SpoolFull):
                shard |= _joined(shard, _decode(await self._memory.get(key)))
        return shard.get(digest, 0)

    async def applied(self, tenant_id: str, sequence: int) -> None:
        """Note that this event was applied. Call it under the tenant's lock."""
        key, digest = _place(tenant_id)
        shard = await self._shard(key)
        newest = max(sequence, shard.pop(digest, 0))
        shard[digest] = newest  # at the end: the order of the dict is the order of last touch
        while len(shard) > _TENANTS_PER_SHARD_MAX:
            del shard[next(iter(shard))]
        if self.has_replicas:  # whoever has the lock next reads it there
            await self._keep(key)

    async def keep(self, tenant_id: str) -> None:
        """Make what was noted durable. Call it before telling anyone; the lock need not be held."""
        if not self.has_replicas:
            await self._keep(_place(tenant_id)[0])

    async def _keep(self, key: str) -> None:
        # With the disk full the order still holds until a restart; the event was applied all the same.
        with suppress(SpoolFull, SpoolClosed):
            shard = await self._shard(key)
            # Other replicas keep theirs in the same row.
            await self._memory.change(key, lambda kept: msgspec.json.encode(_bounded(_joined(_decode(kept), shard))))

    async def _shard(self, key: str) -> dict[str, int]:
        if key not in self._shards:
            kept = await self._memory.get(key)
            # Another task may have loaded it meanwhile: the first copy stays the one that all share.
            self._shards.setdefault(key, _decode(kept))
        return self._shards[key]

    async def _claim(self, key: str, digest: str) -> None:
        """Take the tenant's lock as soon as it is free; when the spool cannot be asked, it is as good as taken."""

        def claim(kept: bytes | None) -> bytes:
            living = {one: lock for one, lock in _locks(kept).items() if lock.lives(_CLOCK.wall_ms())}
            return msgspec.json.encode({digest: mine} | living)

        with suppress(SpoolFull, SpoolClosed):
            while True:
                mine = _Lock(self._who, _CLOCK.wall_ms() + _LOCK_MS)
                if _locks(await self._memory.change(key, claim)).get(digest) == mine:
                    return
                await asyncio.sleep(_CLAIM_AGAIN_S)


class _Lock(msgspec.Struct, frozen=True, array_like=True):
    who: str
    until_ms: int  # wall clock

    def lives(self, now_ms: int) -> bool:
        return 0 < self.until_ms - now_ms <= 2 * _LOCK_MS


def _locks(kept: bytes | None) -> dict[str, _Lock]:
    return msgspec.json.decode(kept, type=dict[str, _Lock]) if kept else {}


def _without(kept: bytes | None, *, digest: str, who: str) -> bytes:
    """Return the locks but this one, if it still is of that holder."""
    return msgspec.json.encode({one: lock for one, lock in _locks(kept).items() if (one, lock.who) != (digest, who)})


def _decode(kept: bytes | None) -> dict[str, int]:
    return msgspec.json.decode(kept, type=dict[str, int]) if kept else {}


def _joined(shard: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Return both, of each tenant the newest; those of `more` count as touched later."""
    joined = dict(shard)
    for digest, sequence in more.items():
        newest = max(sequence, joined.pop(digest, 0))
        joined[digest] = newest
    return joined


def _bounded(shard: dict[str, int]) -> dict[str, int]:
    return dict([*shard.items()][-_TENANTS_PER_SHARD_MAX:])


def _place(tenant_id: str) -> tuple[str, str]:
    """Return the shard's key and the tenant's name in it: digests, so that no id is too long."""
    digest = blake2b(tenant_id.encode(), digest_size=12).hexdigest()
    return f"tenants:{int(digest[:4], 16) % _SHARDS:02x}", digest
