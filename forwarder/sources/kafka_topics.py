"""Read Kafka topics as one member of a consumer group: fetch, commit, lag. What a message means is not known here.

A commit says how far a partition was taken, so that it covers all before it: whenever a fetch did not come to its end,
or something failed, the member is made anew and begins at what was committed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition, errors

from forwarder.errors import SourceAway
from forwarder.ports import Clock
from forwarder.sources.kafka_connection import ANSWER_MAX_S, KafkaSettings, away, login, why
from forwarder.sources.port import Fetched, Message

_CLOSE_MAX_S: Final = 3.0  # to leave the group; a group that is not told notices by itself
_LOOK_EVERY_S: Final = 10.0  # at brokers that send nothing: are they there?
_FETCH_BYTES_MAX: Final = 8_388_608  # read ahead from one broker; a larger message still comes, alone
_PARTITION_BYTES_MAX: Final = 1_048_576
# The group's own heartbeat says that the process lives. A full spool may keep it from fetching for as long as it takes.
_POLL_MAX_MS: Final = 7 * 86_400_000
_FAILURES: Final = (errors.KafkaError, errors.ConsumerStoppedError, OSError)


@dataclass(frozen=True, slots=True)
class _Token:
    partition: TopicPartition
    offset: int


class KafkaTopics:
    """A member of one group; see `port.Bus`. What is fetched is to be acknowledged in the order of the fetches."""

    def __init__(self, settings: KafkaSettings, *, clock: Clock, wait_s: float = 1.0) -> None:
        """Keep the settings; nothing is connected yet. `wait_s` is how long `fetch` waits for something new."""
        self._settings = settings
        self._clock = clock
        self._wait_ms = max(1, round(wait_s * 1000))
        self._member: AIOKafkaConsumer | None = None
        self._look_at_s = 0.0

    def __repr__(self) -> str:
        """Show group and topics."""
        return f"KafkaTopics({self._settings.group} of {', '.join(self._settings.topics)})"

    def set_up(self, settings: KafkaSettings) -> None:
        """Use other settings from the next connection on."""
        self._settings = settings

    async def fetch(self, *, messages_max: int, bytes_max: int) -> Fetched:  # noqa: ARG002 - see the docstring
        """Return what is there, else nothing after `wait_s`; bytes are bounded by what is read ahead, some MiB."""
        is_whole = False
        try:
            member = await self._joined()
            found = await member.getmany(timeout_ms=self._wait_ms, max_records=messages_max)
            if found:
                self._look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S
            elif self._clock.monotonic_s() >= self._look_at_s:
                await self._look(member)
            is_whole = True
        except _FAILURES as error:
            raise away(error) from None
        finally:
            if not is_whole:  # also where it was cancelled: what it had taken is behind the member's position
                await self.close()
        return Fetched([_message(partition, record) for partition, records in found.items() for record in records])

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Commit how far each partition was taken; those that the group has given to others are left alone."""
        member = self._member_in_use()
        taken: dict[TopicPartition, int] = {}
        for message in messages:
            if isinstance(message.token, _Token):  # else it is of another bus
                partition, offset = message.token.partition, message.token.offset
                taken[partition] = max(taken.get(partition, 0), offset + 1)
        ours = {partition: offset for partition, offset in taken.items() if partition in member.assignment()}
        try:
            if ours:
                async with asyncio.timeout(ANSWER_MAX_S):
                    await member.commit(ours)
        except (errors.CommitFailedError, errors.IllegalStateError):
            return  # the group was just dealt anew: whoever has them now gets them again
        except _FAILURES as error:
            await self.close()
            raise away(error) from None

    async def keep(self, messages: Sequence[Message]) -> None:
        """Do nothing: the member's heartbeat keeps its partitions, and with them what is in hand."""

    async def lag(self) -> int | None:
        """Return how many messages of the topics the group has not committed."""
        member = self._member_in_use()
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                return await _lag(member, self._partitions(member))
        except errors.IllegalStateError:
            return None  # dealt anew meanwhile
        except _FAILURES as error:
            raise away(error) from None

    async def prove(self) -> str:
        """See `port.Bus`. Nothing is dealt anew for it: no member joins the group."""
        member = _member(self._settings)
        try:
            await self._start(member)
            await self._look(member)
            partitions = self._partitions(member)
            async with asyncio.timeout(ANSWER_MAX_S):
                member.assign(partitions)
                await member.seek_to_end()
                await member.getmany(timeout_ms=self._wait_ms, max_records=1)
                lag = await _lag(member, partitions)
                await self._prove_commit(member, partitions)
        except _FAILURES as error:
            raise away(error) from None
        finally:
            await _stop(member)
        topics, group = ", ".join(self._settings.topics), self._settings.group
        return f"group {group} may read {topics} ({len(partitions)} partitions); {lag} messages wait"

    async def _prove_commit(self, member: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        """Commit what is committed. A group at work refuses that of a stranger, after it looked at his rights."""
        begins = await member.beginning_offsets(partitions)
        committed = {one: await member.committed(one) for one in partitions}
        try:
            await member.commit({one: begins[one] if at is None else at for one, at in committed.items()})
        except errors.CommitFailedError:
            return

    async def send(self, body: bytes) -> str:
        """See `port.Bus`."""
        topic = self._settings.topics[0]
        producer = AIOKafkaProducer(
            bootstrap_servers=list(self._settings.brokers),
            client_id="forwarder",
            acks="all",
            request_timeout_ms=round(ANSWER_MAX_S * 1000),
            **login(self._settings),
        )
        try:
            await self._start(producer)
            async with asyncio.timeout(ANSWER_MAX_S):
                kept = await producer.send_and_wait(topic, body)
        except _FAILURES as error:
            raise away(error) from None
        finally:
            await _stop(producer)
        return f"offset {kept.offset} of partition {kept.partition} of topic {topic}"

    async def close(self) -> None:
        """Leave the group; what was fetched and not acknowledged comes again. Never raises. Idempotent."""
        member, self._member = self._member, None
        if member is not None:
            await _stop(member)

    def _member_in_use(self) -> AIOKafkaConsumer:
        if self._member is None:
            raise SourceAway("Kafka is not connected")
        return self._member

    async def _joined(self) -> AIOKafkaConsumer:
        if self._member is None:
            member = _member(self._settings, *self._settings.topics)
            try:
                await self._start(member)
            except BaseException:
                await _stop(member)
                raise
            self._member, self._look_at_s = member, 0.0
        return self._member

    async def _start(self, client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
        starting = asyncio.ensure_future(client.start())
        try:
            await asyncio.shield(starting)
        except _FAILURES as error:
            raise await why(self._settings, error) from None
        finally:
            await _end(starting)

    async def _look(self, member: AIOKafkaConsumer) -> None:
        """Ask the brokers for the topics, for aiokafka waits in silence while they are away. Raises `SourceAway`."""
        client = member._client  # noqa: SLF001 - what is public asks for all topics of the brokers
        async with asyncio.timeout(ANSWER_MAX_S):
            await client.set_topics(self._settings.topics)
            if not await client.force_metadata_update():
                raise errors.KafkaConnectionError
        self._partitions(member)
        self._look_at_s = self._clock.monotonic_s() + _LOOK_EVERY_S

    def _partitions(self, member: AIOKafkaConsumer) -> Sequence[TopicPartition]:
        """Return all partitions of the topics. Raises `SourceAway` for a topic that is not there."""
        found = []
        for topic in self._settings.topics:
            if not (numbers := member.partitions_for_topic(topic)):
                raise SourceAway(f"Kafka has no topic {topic}, or this user may not see it")
            found += [TopicPartition(topic, number) for number in numbers]
        return found


async def _lag(member: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> int:
    begins, ends, *committed = await asyncio.gather(
        member.beginning_offsets(partitions), member.end_offsets(partitions), *map(member.committed, partitions)
    )
    return sum(max(0, ends[one] - max(at or 0, begins[one])) for one, at in zip(partitions, committed, strict=True))


async def _stop(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Leave the group, if that is to be had in a short time; else the group notices by itself."""
    await _end(asyncio.ensure_future(client.stop()))
    # aiokafka 0.14 ends here with a CancelledError of its own when a fetch is under way, and forgets its connections.
    inner = client.client if isinstance(client, AIOKafkaProducer) else client._client  # noqa: SLF001 - nothing public closes them
    await inner.close()


async def _end(task: asyncio.Future[Any]) -> None:
    """Let it come to its end for a while: cancelled half-way aiokafka forgets connections."""
    await asyncio.wait({task}, timeout=_CLOSE_MAX_S)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at, so that nobody tells of it


def _member(settings: KafkaSettings, *topics: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        *topics,
        bootstrap_servers=list(settings.brokers),
        client_id="forwarder",
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_bytes=_FETCH_BYTES_MAX,
        max_partition_fetch_bytes=_PARTITION_BYTES_MAX,
        request_timeout_ms=round(ANSWER_MAX_S * 1000),
        max_poll_interval_ms=_POLL_MAX_MS,
        **login(settings),
    )


def _message(partition: TopicPartition, record: Any) -> Message:
    """Return a record; one without a value (a tombstone) has an empty body."""
    headers = {name.lower(): (value or b"").decode(errors="replace") for name, value in record.headers}
    return Message(record.value or b"", headers, _Token(partition, record.offset))
