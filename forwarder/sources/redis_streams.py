"""Read Redis Streams as one consumer of a group: fetch, acknowledge, lag. What a message means is not known here.

Redis keeps, by consumer name, what it delivered and nobody acknowledged. So every connection begins with that: a
reply that was lost on the wire, and what was in hand when a process died, comes again before anything new. Nothing is
fetched unless `fetch` is called, so a caller whose spool is full just does not call it. Redis Cluster and Sentinel are
not spoken to.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis import exceptions
from redis.asyncio import Redis

from forwarder.ports import Clock
from forwarder.sources.port import Fetched, Message
from forwarder.sources.redis_connection import RedisSettings, away, client

_BODY: Final = b"data"  # the field that holds an entry's message, where there is more than one
_CLAIM_IDLE_MS: Final = 60_000  # another consumer's entry is taken over after that: longer than any commit takes
_CLAIM_EVERY_S: Final = 30.0
_ANSWER_MAX_S: Final = 15.0  # over the time a read may block
_FIRST_COUNT: Final = 16
_START: Final = b"0-0"
_LAST: Final = b"18446744073709551615-18446744073709551614"  # the last id that an entry has; one more means ">"


@dataclass(frozen=True, slots=True)
class _Token:
    stream: str
    id: bytes


@dataclass(slots=True)
class _Stream:
    name: str
    redelivered_to: bytes | None = _START  # None: all that was delivered before has come again
    claim_cursor: bytes = _START


class RedisStreams:
    """A consumer of one group; see `port.Bus`."""

    def __init__(self, settings: RedisSettings, *, clock: Clock, block_s: float = 1.0) -> None:
        """Keep the settings; nothing is connected yet. `block_s` is how long `fetch` waits for something new."""
        self._settings = settings
        self._clock = clock
        self._block_ms = max(1, round(block_s * 1000))
        self._redis: Redis | None = None
        self._streams = self._from_start()
        self._claim_at_s = 0.0
        self._count = _FIRST_COUNT

    def __repr__(self) -> str:
        """Show group and streams; the URL may hold a password."""
        return f"RedisStreams({self._settings.group} of {', '.join(self._settings.streams)})"

    def set_up(self, settings: RedisSettings) -> None:
        """Use other settings from the next connection on."""
        self._settings = settings

    async def fetch(self, *, messages_max: int, bytes_max: int) -> Fetched:
        """Return what was delivered before and not acknowledged, else something new, else nothing after `block_s`.

        `bytes_max` is aimed at, from the sizes of the last fetch: Redis can limit their number alone.
        """
        count = max(1, min(self._count, messages_max))
        is_whole = False
        try:
            redis = await self._connected()
            fetched = await self._fetch(redis, count)
            is_whole = True
        except (exceptions.RedisError, OSError) as error:
            raise away(error) from None
        finally:
            if not is_whole:  # also where it was cancelled: what was on its way here is asked for again
                await self.close()
        size = sum(len(entry.body) for entry in fetched.messages)
        if fetched.messages:
            fitting = bytes_max * len(fetched.messages) // max(size, 1)
            self._count = max(1, min(fitting, 2 * count, messages_max))
        return fetched

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell Redis that these need not come again. After a `SourceAway` they do come again."""
        await self._tell(messages, lambda pipeline, stream, ids: pipeline.xack(stream, self._settings.group, *ids))

    async def keep(self, messages: Sequence[Message]) -> None:
        """Begin the minute anew after which another consumer would take these over; what is acknowledged stays so."""
        group, consumer = self._settings.group, self._settings.consumer
        await self._tell(
            messages, lambda pipeline, stream, ids: pipeline.xclaim(stream, group, consumer, 0, ids, justid=True)
        )

    async def _tell(self, messages: Sequence[Message], command: Callable[[Any, str, list[Any]], object]) -> None:
        """Give one command for each stream, all in one write."""
        by_stream: dict[str, list[bytes]] = {}
        for message in messages:
            if isinstance(message.token, _Token):  # else it is of another bus
                by_stream.setdefault(message.token.stream, []).append(message.token.id)
        try:
            redis = self._redis_in_use()
            async with redis.pipeline(transaction=False) as pipeline:
                for stream, ids in by_stream.items():
                    command(pipeline, stream, ids)
                await pipeline.execute()
        except (exceptions.RedisError, OSError) as error:
            # The connection that reads may be whole. A fetch that is under way keeps its own list.
            self._streams = self._from_start()
            raise away(error) from None

    async def lag(self) -> int | None:
        """Return how many messages are not acknowledged by the group, those that nobody fetched yet included.

        None: Redis does not know (before 7.0, or after entries were deleted by hand), or we may not ask.
        """
        total = 0
        try:
            redis = self._redis_in_use()
            for stream in self._settings.streams:
                groups: list[dict[str, Any]] = await redis.xinfo_groups(stream)
                group = next((one for one in groups if one["name"] == self._settings.group.encode()), None)
                if group is None or group.get("lag") is None:
                    return None
                total += group["lag"] + group["pending"]
        except exceptions.NoPermissionError:
            return None
        except (exceptions.RedisError, OSError) as error:
            raise away(error) from None
        return total

    async def prove(self) -> str:
        """See `port.Bus`: each command is given for an entry that cannot be there."""
        group, consumer, streams = self._settings.group, self._settings.consumer, self._settings.streams
        try:
            redis = await self._connected()
            for stream in streams:
                await self._read(redis, {stream: _LAST}, 1)
                await redis.xautoclaim(stream, group, consumer, _CLAIM_IDLE_MS, _LAST, count=1)
                await redis.xclaim(stream, group, consumer, 0, [_START], justid=True)
                await redis.xack(stream, group, _START)
        except (exceptions.RedisError, OSError) as error:
            raise away(error) from None
        lag = await self.lag()
        waiting = "how many messages wait is not known" if lag is None else f"{lag} messages wait"
        return f"group {group} reads {', '.join(streams)} as {consumer}; {waiting}"

    async def send(self, body: bytes) -> str:
        """See `port.Bus`."""
        stream = self._settings.streams[0]
        try:
            redis = await self._connected()
            id_: Any = await redis.xadd(stream, {_BODY: body})
        except (exceptions.RedisError, OSError) as error:
            raise away(error) from None
        return f"entry {id_.decode()} of stream {stream}"

    async def close(self) -> None:
        """Close the connections; what was fetched and not acknowledged comes again. Idempotent."""
        redis, self._redis = self._redis, None
        self._streams = self._from_start()
        if redis is not None:
            with suppress(exceptions.RedisError, OSError):
                await redis.aclose()

    def _from_start(self) -> list[_Stream]:
        return [_Stream(name) for name in self._settings.streams]

    def _redis_in_use(self) -> Redis:
        if self._redis is None:
            raise exceptions.ConnectionError("not connected")
        return self._redis

    async def _connected(self) -> Redis:
        if self._redis is None:
            self._redis = client(self._settings, answer_max_s=self._block_ms / 1000 + _ANSWER_MAX_S)
            self._claim_at_s = self._clock.monotonic_s()
            for stream in self._settings.streams:
                await self._make_group(self._redis, stream)
        return self._redis

    async def _make_group(self, redis: Redis, stream: str) -> None:
        """Make the group from the stream's beginning, unless it is there; the stream with it."""
        try:
            await redis.xgroup_create(stream, self._settings.group, id="0", mkstream=True)
        except exceptions.NoPermissionError:
            return  # the group may have been made by somebody who may: reading tells
        except exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _fetch(self, redis: Redis, count: int) -> Fetched:
        for stream in self._streams:
            if stream.redelivered_to is not None:
                fetched = await self._redelivered(redis, stream, count)
                if fetched.messages or fetched.lost:
                    return fetched
        if self._clock.monotonic_s() >= self._claim_at_s:
            for stream in self._streams:
                fetched = await self._claimed(redis, stream, count)
                if fetched.messages or fetched.lost:
                    return fetched
            self._claim_at_s = self._clock.monotonic_s() + _CLAIM_EVERY_S
        names = {stream.name: ">" for stream in self._streams}
        read = await self._read(redis, names, count, block_ms=self._block_ms)
        return Fetched([_message(stream.decode(), id_, fields) for stream, rows in read for id_, fields in rows])

    async def _redelivered(self, redis: Redis, stream: _Stream, count: int) -> Fetched:
        """Return the next of what this consumer was given before."""
        read = await self._read(redis, {stream.name: stream.redelivered_to}, count)
        rows = read[0][1] if read else []
        stream.redelivered_to = rows[-1][0] if rows else None
        return await self._taken(redis, stream, rows)

    async def _claimed(self, redis: Redis, stream: _Stream, count: int) -> Fetched:
        """Take over what other consumers were given and did not acknowledge for long: they are gone.

        Continues at the next call where this one stopped, until all were looked through.
        """
        while True:
            group, consumer = self._settings.group, self._settings.consumer
            answer: Any = await redis.xautoclaim(
                stream.name, group, consumer, _CLAIM_IDLE_MS, stream.claim_cursor, count=count
            )
            stream.claim_cursor = answer[0]
            gone = len(answer[2]) if len(answer) > 2 else 0  # noqa: PLR2004 - Redis 7 tells of them; they are forgotten
            fetched = await self._taken(redis, stream, answer[1], lost=gone)
            if fetched.messages or fetched.lost or stream.claim_cursor == _START:
                return fetched

    async def _taken(self, redis: Redis, stream: _Stream, rows: Sequence[Any], *, lost: int = 0) -> Fetched:
        """Return the rows as messages. What the stream holds no more would come again for ever: it is acknowledged."""
        gone = [id_ for id_, fields in rows if not fields and id_]
        if gone:
            await redis.xack(stream.name, self._settings.group, *gone)
        messages = [_message(stream.name, id_, fields) for id_, fields in rows if fields]
        return Fetched(messages, lost + len(gone))

    async def _read(self, redis: Redis, streams: Mapping[str, Any], count: int, *, block_ms: int | None = None) -> Any:
        group, consumer = self._settings.group, self._settings.consumer
        wanted: dict[Any, Any] = dict(streams)
        return await redis.xreadgroup(group, consumer, wanted, count=count, block=block_ms)


def _message(stream: str, id_: bytes, fields: Mapping[bytes, bytes]) -> Message:
    """Return an entry: its field `data` or its only one is the body; with neither, all fields as one JSON object."""
    if len(fields) == 1:
        return Message(next(iter(fields.values())), {}, _Token(stream, id_))
    texts = {_text(name): _text(value) for name, value in fields.items() if name != _BODY}
    if _BODY in fields:
        headers = {name.lower(): text for name, text in texts.items()}
        return Message(fields[_BODY], headers, _Token(stream, id_))
    return Message(msgspec.json.encode(texts), {}, _Token(stream, id_))


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
