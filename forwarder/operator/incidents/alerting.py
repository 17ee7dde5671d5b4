"""Tell people of incidents, each channel by itself: one that fails or hangs delays no other, and never a route."""

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from forwarder.clock import wait_within
from forwarder.errors import ForwarderError
from forwarder.operator.incidents.alerts import Alert, Pace, due, mark
from forwarder.operator.incidents.channels import AlertFailed, Channel, CourierChannel, UrlChannel
from forwarder.operator.incidents.keeper import Incidents
from forwarder.ports import Clock, Transport
from forwarder.settings import Settings
from forwarder.settings.rotation import Swaps, courier_client
from forwarder.telemetry.reporter import Reporter

_LOOK_EVERY_S: Final = 1.0
_FINISH_S: Final = 1.0  # a drain waits so long for an alert that is under way


class Alerting:
    """`ports.Worker`: look at the incidents each second, and tell each channel what it does not know yet."""

    name = "alerts"

    def __init__(
        self,
        channels: Sequence[Channel],
        incidents: Incidents,
        *,
        instance: str,
        reporter: Reporter,
        clock: Clock,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._channels = channels
        self._incidents = incidents
        self._instance = instance
        self._reporter = reporter
        self._clock = clock
        self._paces = [Pace(rng) for _ in channels]
        self._drained = asyncio.Event()

    async def run(self) -> None:
        """Tell until drained; see `ports.Worker`. What is not told by then is told after the next start."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._serve(channel, pace))
                for channel, pace in zip(self._channels, self._paces, strict=True)
            ]
            await self._drained.wait()
            for task in (await asyncio.wait(tasks, timeout=_FINISH_S))[1] if tasks else ():
                task.cancel()

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()

    async def tell(self, channel: Channel, pace: Pace) -> None:
        """Tell one channel what is due, if it may be used now and this replica is the one that tells."""
        if not self._incidents.is_leading or not pace.may_tell(now_s=self._clock.monotonic_s()):
            return
        alert = due(self._incidents.watch.known, channel.name, instance=self._instance, now_ms=self._clock.wall_ms())
        if alert is None:
            return
        try:
            message_id = await channel.send(alert)
        except AlertFailed as error:
            again_s = pace.failed(now_s=self._clock.monotonic_s())
            self._reporter.alert_failed(channel.kind, reason=str(error), again_s=again_s)
            return
        pace.told(now_s=self._clock.monotonic_s())
        mark(alert, channel.name)
        self._reporter.alert_sent(channel.kind, began=len(alert.began), ended=len(alert.ended))
        with suppress(ForwarderError):  # the spool is shut: after a restart it is told once more
            await self._incidents.alert_sent(message_id)

    async def _serve(self, channel: Channel, pace: Pace) -> None:
        while not self._drained.is_set():
            await self.tell(channel, pace)
            await wait_within(_LOOK_EVERY_S, self._drained)


def instance_of(settings: Settings) -> str:
    """Return what this daemon is called among others: its public address, or its machine's name."""
    return urlsplit(settings.public_url or "").hostname or socket.gethostname()


def channels_of(settings: Settings, transport: Transport, clock: Clock, swaps: Swaps) -> Sequence[Channel]:
    """Return the channels that are set. Adds to `swaps` who takes new secrets."""
    url = UrlChannel(transport, settings.alert_url.get_secret_value()) if settings.alert_url else None
    client = courier_client(settings, transport, clock, swaps)
    through_courier = [
        CourierChannel(client=client, template=settings.alert_template or "", recipient=one)
        for one in settings.alert_to
    ]

    def take(new: Settings) -> None:
        if url is not None and new.alert_url is not None:
            url.url = new.alert_url.get_secret_value()

    swaps.append(take)
    return [*([url] if url else []), *through_courier]


def a_test(settings: Settings, clock: Clock) -> Alert:
    """Return an alert that says that it is a test."""
    return Alert(instance=instance_of(settings), at_ms=clock.wall_ms(), is_test=True)
