"""NATS JetStream: a durable pull consumer with explicit acknowledgements.

One pull request is open at a time and its messages are taken as they come, so a lone one is here at once, and no more
than one request's worth waits in memory. What was not acknowledged comes again, over any number of connections.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import errors as js_errors
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo

from forwarder.clock import wait_within
from forwarder.errors import SourceAway
from forwarder.ports import Clock
from forwarder.sources.nats_connection import ANSWER_MAX_S, Connection, NatsSettings
from forwarder.sources.port import Fetched, Message

_WAIT_S: Final = 1.0
_CLOSE_MAX_S: Final = 1.0
_PULL_S: Final = 30.0
_PULL_LATE_S: Final = 5.0  # beyond its end: nobody answers it any more
_ACK_WAIT_S: Final = 30.0
_ACKS_PENDING_MAX: Final = 2_000  # of a consumer of our making: what is written and what waits behind it
_TAKEN, _IN_HAND, _NOT_TAKEN = b"+ACK", b"+WPI", b"-NAK"  # answers to a message
_NO_STREAM: Final = 10_059  # JetStream's error code
_TOO_LARGE: Final = "Message Size Exceeds MaxBytes"
_NOBODY: Final = "503"  # the status of a request that nobody hears
_ENDS_WELL: Final = ("404", "408")  # statuses of a pull request that has ended: nothing there, time over
_ENDS_WELL_SAYING: Final = ("Batch Completed", _TOO_LARGE)


class _Reading:
    """What is open and what waits on one connection; what a lost one still says reaches nobody."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.inbox = connection.client.new_inbox()
        self.waiting: list[Msg] = []
        self.in_hand: list[Msg] = []  # taken, and not acknowledged
        self.open = 0  # messages that the pull request may still bring
        self.ends_s = 0.0  # the pull request; monotonic
        self.is_next_large = False  # the next message alone is more than was asked for
        self.failed = ""
        self.came = asyncio.Event()
        self.subscription: Subscription | None = None
        connection.on_closed = self.came.set

    async def on_message(self, message: Msg) -> None:
        """Take a message, or the status that ends the pull request."""
        if not message.reply:  # a status has nothing to be answered; a message may have a header of that name
            headers = message.headers or {}
            status, said = headers.get("Status", ""), headers.get("Description", "")
            self.open = 0
            self.is_next_large = said == _TOO_LARGE
            if status == _NOBODY:
                self.failed = self.failed or "JetStream, the stream or the consumer is gone"
            elif status not in _ENDS_WELL and said not in _ENDS_WELL_SAYING:
                self.failed = self.failed or f"JetStream ends the reading: {status} {said}"
        else:
            self.waiting.append(message)
            self.open -= 1
        self.came.set()

    def require(self) -> None:
        """Raise `SourceAway` when nothing more will come."""
        if self.failed:
            raise SourceAway(self.failed)
        self.connection.require()

    async def take(self, messages_max: int) -> list[Msg]:
        """Return what waits, else what comes within a second. Raises `SourceAway`."""
        if not self.waiting:
            self.came.clear()
            await wait_within(_WAIT_S, self.came)
        self.require()
        self.in_hand, self.waiting = self.waiting[:messages_max], self.waiting[messages_max:]
        return self.in_hand

    async def close(self) -> None:
        """Let others have at once what was not acknowledged, also what is on its way here, and close. Never raises."""
        with suppress(SourceAway), self.connection.ours():
            if self.subscription is not None and self.connection.client.is_connected:
                async with asyncio.timeout(_CLOSE_MAX_S):
                    await self.subscription.drain()  # type: ignore[no-untyped-call]  # the library has no type there
            for message in (*self.in_hand, *self.waiting):
                await self.connection.client.publish(message.reply, _NOT_TAKEN)
        await self.connection.close()


class JetStream:
    """`port.Bus` on a stream."""

    def __init__(self, settings: NatsSettings, *, clock: Clock) -> None:
        """Keep the settings; nothing is connected yet."""
        self._settings = settings
        self._clock = clock
        self._reading: _Reading | None = None
        self._connections = 0

    def __repr__(self) -> str:
        """Show durable and stream."""
        return f"JetStream({self._settings.durable} of {self._settings.stream})"

    def set_up(self, settings: NatsSettings) -> None:
        """Use other settings from the next connection on."""
        self._settings = settings

    async def fetch(self, *, messages_max: int, bytes_max: int) -> Fetched:
        """See `port.Bus`."""
        is_whole = False
        try:
            reading = await self._connected()
            reading.require()
            await self._pull(reading, messages_max, bytes_max)
            taken = await reading.take(messages_max)
            if taken:
                await self._pull(reading, messages_max, bytes_max)  # it comes while these are written
            is_whole = True
        finally:
            if not is_whole:  # also where it was cancelled
                await self.close()
        return Fetched([_message(one) for one in taken])

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `port.Bus`."""
        await self._answer(messages, _TAKEN)
        if self._reading is not None:
            self._reading.in_hand = []

    async def keep(self, messages: Sequence[Message]) -> None:
        """See `port.Bus`."""
        behind = self._reading.waiting if self._reading else ()
        await self._answer([*messages, *map(_message, behind)], _IN_HAND)

    async def lag(self) -> int | None:
        """See `port.Bus`."""
        return _lag(await self._info(self._in_use()))

    async def prove(self) -> str:
        """See `port.Bus`."""
        reading = await self._connected()
        connection, client = reading.connection, reading.connection.client
        inbox = client.new_inbox()
        with connection.ours():
            answer = await client.subscribe(inbox, max_msgs=1)
            # A request that no message fits into takes none.
            await client.publish(self._next(), b'{"batch":1,"no_wait":true,"max_bytes":1}', reply=inbox)
            await answer.next_msg(timeout=ANSWER_MAX_S)
        waiting = _lag(await self._info(connection))
        return f"stream {self._settings.stream} is read as {self._settings.durable}; {waiting} messages wait"

    async def send(self, body: bytes) -> str:
        """See `port.Bus`."""
        connection = (await self._connected()).connection
        with connection.ours():
            stream, name = connection.jetstream(), self._settings.stream
            subjects = self._settings.subjects or (await stream.stream_info(name)).config.subjects or [name]
            subject = subjects[0].replace("*", "sample").replace(">", "sample")
            kept = await stream.publish(subject, body, stream=name, headers={"Content-Type": "application/json"})
        return f"subject {subject}, message {kept.seq} of stream {kept.stream}"

    async def close(self) -> None:
        """See `port.Bus`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            await reading.close()

    async def _connected(self) -> _Reading:
        if self._reading is None:
            url = self._settings.urls[self._connections % len(self._settings.urls)]
            self._connections += 1
            connection = await Connection.open(self._settings, url)
            self._reading = reading = _Reading(connection)
            with connection.ours():
                await self._make_consumer(connection)
                reading.subscription = await connection.client.subscribe(reading.inbox, cb=reading.on_message)
                await self._may_acknowledge(connection)
        return self._reading

    def _in_use(self) -> Connection:
        if self._reading is None:
            raise SourceAway("NATS is not connected")
        return self._reading.connection

    async def _make_consumer(self, connection: Connection) -> None:
        """Make the durable if it is not there, else let it take the subjects that are set."""
        settings, stream = self._settings, connection.jetstream()
        try:
            config = (await stream.consumer_info(settings.stream, settings.durable)).config
        except js_errors.NotFoundError as error:
            if error.err_code == _NO_STREAM:
                raise SourceAway(f"there is no stream {settings.stream}") from None
            config = ConsumerConfig(
                durable_name=settings.durable,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT_S,
                max_ack_pending=_ACKS_PENDING_MAX,
            )
        else:
            if config.deliver_subject or config.ack_policy != AckPolicy.EXPLICIT:
                raise SourceAway(
                    f"the consumer {settings.durable} is not one that is pulled from and acknowledged one by one: "
                    "name another in FORWARDER_NATS_DURABLE"
                )
            if (config.max_deliver or 0) > 0 or config.headers_only:
                raise SourceAway(
                    f"the consumer {settings.durable} would lose events (max_deliver or headers_only): change that, or "
                    "name another in FORWARDER_NATS_DURABLE"
                )
            has = config.filter_subjects or ([config.filter_subject] if config.filter_subject else [])
            if sorted(has) == sorted(settings.subjects):
                return
        await stream.add_consumer(settings.stream, config.evolve(name=settings.durable, **_filter(settings.subjects)))

    async def _may_acknowledge(self, connection: Connection) -> None:
        """Raise `SourceAway` when this user may not: an acknowledgement itself has no answer that would say so."""
        # A sign of life for message 0, which there is not, does nothing.
        word = f"$JS.ACK.{self._settings.stream}.{self._settings.durable}.1.0.0.0.0"
        await connection.client.publish(word, _IN_HAND)
        for _ in range(2):  # the library's ping overtakes what waits to be written: the second one comes behind it
            await connection.client.flush(round(ANSWER_MAX_S))
        connection.require()

    async def _pull(self, reading: _Reading, messages_max: int, bytes_max: int) -> None:
        """Ask for messages, unless some wait or a request is open."""
        now_s = self._clock.monotonic_s()
        if reading.waiting or (reading.open > 0 and now_s < reading.ends_s + _PULL_LATE_S):
            return
        request = {"batch": 1} if reading.is_next_large else {"batch": messages_max, "max_bytes": bytes_max}
        reading.is_next_large = False
        reading.open, reading.ends_s = request["batch"], now_s + _PULL_S
        request["expires"] = round(_PULL_S * 1e9)
        with reading.connection.ours():
            await reading.connection.client.publish(self._next(), json.dumps(request).encode(), reply=reading.inbox)

    def _next(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self._settings.stream}.{self._settings.durable}"

    async def _answer(self, messages: Sequence[Message], word: bytes) -> None:
        connection = self._in_use()
        with connection.ours():
            for message in messages:
                await connection.client.publish(str(message.token), word)

    async def _info(self, connection: Connection) -> ConsumerInfo:
        with connection.ours():
            info: ConsumerInfo = await connection.jetstream().consumer_info(
                self._settings.stream, self._settings.durable
            )
        return info


def _lag(info: ConsumerInfo) -> int:
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def _filter(subjects: Sequence[str]) -> dict[str, Any]:
    one = subjects[0] if len(subjects) == 1 else None
    return {"filter_subject": one, "filter_subjects": None if one or not subjects else list(subjects)}


def _message(message: Msg) -> Message:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    return Message(message.data, headers, message.reply)
