"""Decide what to tell people of the incidents, and when. Pure: the time is given, nothing is sent.

What a channel was told stands with the incident itself, on disk: a channel that failed is told of everything in one
alert when it works again, a restart repeats nothing, and nothing waits in a queue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from forwarder.delivery.pacing import Backoff
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.text import plural, span

SETTLE_MS: Final = 10_000  # what is over sooner wakes nobody, and what begins together is told together
_SETTLE_MS: Final = {"back_off": 300_000}  # a destination's bad minutes are daily life
_STALE_MS: Final = 3_600_000  # what ended longer ago is no news, if its beginning was not
_SHOWN_MAX: Final = 20
_QUIET_S: Final = 900.0
_WAIT_FIRST_S: Final = 60.0
_RETRY: Final = Backoff(first_s=5.0, max_s=300.0)
_ATTEMPT_S_MIN: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What to tell at once: what began and goes on, and what ended. `instance` names the daemon among others."""

    instance: str
    at_ms: int
    began: tuple[Incident, ...] = ()
    ended: tuple[Incident, ...] = ()
    is_test: bool = False

    @property
    def summary(self) -> str:
        """Say it in one line."""
        if self.is_test:
            return f"forwarder on {self.instance}: a test alert; nothing is wrong"
        told = [
            _count(self.began, "", "incident began", "incidents began"),
            _count(self.ended, ": over", "over", "over"),
        ]
        return f"forwarder on {self.instance}: {', '.join(part for part in told if part)}"

    def lines(self) -> list[str]:
        """Say all of it, one line an incident; nothing in it comes from a payload."""
        shown = [
            *(f"Since {_at(one.began_ms)}: {one.words}: {one.cause}. {one.remedy}" for one in self.began),
            *(
                f"Over since {_at(one.ended_ms or self.at_ms)}, after {span(one.lasted_ms(now_ms=self.at_ms) / 1000)}: "
                f"{one.words}: {one.cause} ({one.cost})."
                for one in self.ended
            ),
        ]
        more = len(shown) - _SHOWN_MAX
        return [*shown[:_SHOWN_MAX], f"And {more} more: `forwarder incidents`."] if more > 0 else shown


def due(known: Sequence[Incident], channel: str, *, instance: str, now_ms: int) -> Alert | None:
    """Return what this channel shall be told now; None while there is nothing."""
    began = [one for one in known if one.ended_ms is None and channel not in one.told]
    ended = [one for one in known if one.ended_ms is not None and _is_end_news(one, one.ended_ms, channel, now_ms)]
    ripe = [one for one in began if _is_ripe(one, one.lasted_ms(now_ms=now_ms)) or one.began_ms > now_ms]
    if not ripe and not ended:
        return None
    # What has just begun is told along, unless it is of a kind that may end by itself.
    along = [one for one in began if one in ripe or one.kind not in _SETTLE_MS]
    return Alert(instance=instance, at_ms=now_ms, began=tuple(along), ended=tuple(ended))


def mark(alert: Alert, channel: str) -> None:
    """Note with the incidents that the channel was told."""
    for one in alert.began:
        one.told.append(channel)
    for one in alert.ended:
        one.told_end.append(channel)


class Pace:
    """When a channel may be used again: later with each alert after another, and backing off after failures.

    Monotonic seconds. Ten alerts in a row are ten incidents that come and go: the later ones are told together.
    """

    def __init__(self, rng: Callable[[], float]) -> None:
        self._rng = rng
        self._spacing = Backoff(first_s=_WAIT_FIRST_S, max_s=_QUIET_S)
        self._in_a_row = 0
        self._failures = 0
        self._told_at_s: float | None = None
        self._next_s = float("-inf")

    def may_tell(self, *, now_s: float) -> bool:
        """Tell whether the channel may be used now."""
        return now_s >= self._next_s

    def told(self, *, now_s: float) -> None:
        """Note that an alert arrived."""
        is_quiet = self._told_at_s is None or now_s - self._told_at_s > 2 * _QUIET_S
        self._in_a_row = 1 if is_quiet else self._in_a_row + 1
        self._failures, self._told_at_s = 0, now_s
        self._next_s = now_s + self._spacing.ceiling_s(self._in_a_row)

    def failed(self, *, now_s: float) -> float:
        """Note that an alert did not arrive; return the seconds until the next attempt."""
        self._failures += 1
        wait_s = max(_ATTEMPT_S_MIN, _RETRY.delay_s(self._failures, self._rng))
        self._next_s = now_s + wait_s
        return wait_s


def _is_ripe(one: Incident, lasted_ms: int) -> bool:
    return lasted_ms >= _SETTLE_MS.get(one.kind, SETTLE_MS)


def _is_end_news(one: Incident, ended_ms: int, channel: str, now_ms: int) -> bool:
    """Tell whether the end is to be told: of what was told, or of what ended while the channel could not be used."""
    if channel in one.told_end:
        return False
    if channel in one.told:
        return abs(now_ms - ended_ms) >= SETTLE_MS
    return _is_ripe(one, one.lasted_ms(now_ms=now_ms)) and SETTLE_MS <= now_ms - ended_ms <= _STALE_MS


def _count(incidents: Sequence[Incident], after: str, one: str, many: str) -> str:
    if len(incidents) == 1:
        return incidents[0].words + after
    return plural(len(incidents), one, many) if incidents else ""


def _at(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
