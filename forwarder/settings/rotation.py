"""Secrets that change while the daemon runs: read again, judged as a whole, and swapped, or refused while the old stay.

Looked at when it is asked for (SIGHUP) and every few seconds. What needs a restart is named and left as it is.
"""

import asyncio
from collections.abc import Callable, Sequence

from forwarder.clock import wait_within
from forwarder.courier.client import CourierClient
from forwarder.errors import SettingsInvalid
from forwarder.ports import Clock, Transport
from forwarder.settings.load import judged
from forwarder.settings.settings import Settings
from forwarder.settings.sources import Gathered, Place, gather
from forwarder.settings.values import revealed
from forwarder.telemetry.reporter import Reporter

LOOK_EVERY_S = 5.0
Swaps = list[Callable[[Settings], None]]  # who take secrets that were replaced


def courier_client(settings: Settings, transport: Transport, clock: Clock, swaps: Swaps | None = None) -> CourierClient:
    """Return a client with the key that is set, or with none; with `swaps` it takes one that replaces it."""
    key = revealed(settings.courier_api_key)
    client = CourierClient(transport, base_url=settings.courier_api_url, api_key=key, clock=clock)
    if swaps is not None:
        swaps.append(lambda new: client.replace_key(revealed(new.courier_api_key)))
    return client


class Rotation:
    """`ports.Worker` that reads the place of the settings again and hands secrets that changed to `swaps`.

    A change that nobody asked for counts when two looks in a row agree: a file may be half written at the first.
    """

    name = "rotation"

    def __init__(
        self,
        settings: Settings,
        place: Place,
        *,
        swaps: Sequence[Callable[[Settings], None]],
        asked: asyncio.Event,
        reporter: Reporter,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Keep what is in effect; `asked` is set by whoever wants a look now."""
        self._settings = settings
        self._place = place
        self._swaps = swaps
        self._asked = asked
        self._reporter = reporter
        self._look_every_s = look_every_s
        self._drained = asyncio.Event()
        self._seen: Gathered | None = None
        self._before: Gathered | None = None

    async def run(self) -> None:
        """Look until drained; see `ports.Worker`."""
        first = await asyncio.to_thread(gather, self._place)
        # What changed since the start read its settings is a change like any other, and found by the next looks.
        self._seen = first if self._is_in_effect(first) else None
        while not self._drained.is_set():
            await wait_within(self._look_every_s, self._asked)
            is_asked = self._asked.is_set() and not self._drained.is_set()
            self._asked.clear()
            self._look(await asyncio.to_thread(gather, self._place), is_asked=is_asked)

    async def drain(self) -> None:
        """Make `run` return."""
        self._drained.set()
        self._asked.set()

    def _look(self, found: Gathered, *, is_asked: bool) -> None:
        is_stable, self._before = found == self._before, found
        if is_asked or (is_stable and found != self._seen):
            self._seen = found
            self._judge(found)

    def _is_in_effect(self, found: Gathered) -> bool:
        try:
            return not judged(found, self._place).differences(self._settings)
        except SettingsInvalid:
            return False

    def _judge(self, found: Gathered) -> None:
        try:
            settings = judged(found, self._place)
        except SettingsInvalid as error:
            self._reporter.secrets_refused(reason=str(error))
            return
        changed = settings.differences(self._settings)
        secrets = [variable for variable in changed if Settings.is_secret(variable)]
        if turned := [
            variable for variable in secrets if (variable in settings.given()) != (variable in self._settings.given())
        ]:
            self._reporter.secrets_refused(
                reason=f"{', '.join(turned)}: set or unset while it runs. Restart it for that."
            )
            return
        if secrets:
            # What else changed waits for the restart, whoever asks the settings: only secrets are put into them.
            self._settings = self._settings.with_values_of(settings, secrets)
            for swap in self._swaps:
                swap(self._settings)
        self._reporter.secrets_read(replaced=secrets)
        if others := [variable for variable in changed if variable not in secrets]:
            self._reporter.restart_needed(variables=others)


def rotation(
    settings: Settings, swaps: Sequence[Callable[[Settings], None]], *, asked: asyncio.Event, reporter: Reporter
) -> Sequence[Rotation]:
    """Make what reads the secrets again; nothing for settings that were read nowhere (the demo's)."""
    place = settings.reading.place
    return () if place is None else (Rotation(settings, place, swaps=swaps, asked=asked, reporter=reporter),)
