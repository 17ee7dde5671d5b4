"""What is wrong with what comes, and with what becomes of it: rejected senders, senders that stay away, deaths. Pure.

All of it is read off the totals by time. A sender stays away when nothing comes though so much came in the same minutes
of every day that is known: quiet nights, weekends and nightly batches are no incident.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import asdict

from forwarder.model import RouteName
from forwarder.operator.incidents.incident import Incident, Key, remedy_of_rejection
from forwarder.telemetry.series import Series
from forwarder.telemetry.totals_by_time import DAY_MS, FIVE_MS, HOUR_MS, MINUTE_MS, Rejected, TotalsByTime

WEBHOOK: Final = "/webhooks/courier"
_OUTBOUND: Final = (WEBHOOK, "/events")
# What somebody who was to be let in runs into; what strangers try (unknown paths, no HTTP) is none of it.
SENDERS_REASONS: Final = frozenset(
    {
        "body_too_large",
        "encoding_unsupported",
        "gzip_corrupt",
        "key_malformed",
        "key_missing",
        "key_unknown",
        "no_object",
        "not_json",
        "route_off",
        "signature_malformed",
        "signature_mismatch",
        "signature_missing",
        "signature_outside_age",
        "too_many_events",
    }
)
WINDOW_MS: Final = 10 * MINUTE_MS
REJECTED_MIN: Final = 5
DEAD_MIN: Final = 10
MISSED_MIN: Final = 20
_REJECTED_QUIET_MS: Final = 20 * MINUTE_MS  # Courier's longest wait between two attempts is 15 min
_DAYS: Final = 7
_KNOWN_SHARE: Final = 0.9
_SHIFTS_MS: Final = (0, -HOUR_MS, HOUR_MS)  # what keeps the hours of a place comes an hour off twice a year


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What our own alerts through Courier caused: they come back as its webhooks, and must cause no alert.

    `came`: how many requests they were at most, by the five minutes they came in; `dead`: how many died lately.
    """

    came: Mapping[int, int] = field(default_factory=dict)
    dead: int = 0


def seen_in_traffic(
    by_time: TotalsByTime, open_keys: Mapping[Key, Incident], *, own: Own, now_ms: int
) -> Iterator[Incident]:
    """Yield what is wrong now; what is open goes on until it is certainly over."""
    rejected = list(_rejected(by_time, open_keys, now_ms=now_ms))
    yield from rejected
    yield from _gaps(by_time, open_keys, {one.scope for one in rejected}, own=own, now_ms=now_ms)
    yield from _dying(by_time, open_keys, own=own, now_ms=now_ms)


class RejectedRequests(Rejected, frozen=True, kw_only=True):
    """Requests that were turned away, and what to do about it ("": the reason says it)."""

    remedy: str


def rejected_lately(by_time: TotalsByTime) -> list[RejectedRequests]:
    """Return what was turned away within the day, most of the last hour first; but for our own listener's logins."""
    return [
        RejectedRequests(**asdict(one), remedy=remedy_of_rejection(route_of(one.endpoint), one.reason))
        for one in by_time.lately()
        if one.endpoint != "operator"
    ]


def rejected_within_hour(by_time: TotalsByTime) -> int:
    """Return how many requests were turned away within the hour."""
    return sum(one.last_hour for one in rejected_lately(by_time))


def route_of(endpoint: str) -> RouteName:
    """Return the route that an endpoint feeds."""
    return RouteName.COURIER_TO_RUDDERSTACK if endpoint in _OUTBOUND else RouteName.RUDDERSTACK_TO_COURIER


def _rejected(by_time: TotalsByTime, open_keys: Collection[Key], *, now_ms: int) -> Iterator[Incident]:
    lately: Counter[tuple[str, str]] = Counter()
    before: Counter[str] = Counter()
    for at_ms, step in by_time.minutes.between(now_ms - _REJECTED_QUIET_MS, now_ms + 1):
        for (endpoint, reason, _), count in step.rejected.items():
            if endpoint.startswith("/") and reason in SENDERS_REASONS:
                before[endpoint] += count
                if at_ms > now_ms - WINDOW_MS:
                    lately[endpoint, reason] += count
    for endpoint in before:
        of_endpoint = {reason: count for (where, reason), count in lately.items() if where == endpoint}
        count, route = sum(of_endpoint.values()), route_of(endpoint)
        if count >= REJECTED_MIN or ("rejected", route, endpoint) in open_keys:
            most = max(of_endpoint, key=lambda reason: of_endpoint[reason], default="")
            cause = f"{count} requests were turned away within ten minutes, most for: {most.replace('_', ' ')}"
            yield Incident(kind="rejected", route=route, scope=endpoint, cause=cause, began_ms=now_ms)


def _gaps(
    by_time: TotalsByTime, open_keys: Mapping[Key, Incident], explained: Collection[str], *, own: Own, now_ms: int
) -> Iterator[Incident]:
    is_refusing = any(kind == "refusal" for kind, _, _ in open_keys)
    lately = by_time.fives.between(now_ms - DAY_MS - 2 * HOUR_MS, now_ms + 1)
    for endpoint in {endpoint for _, step in lately for endpoint in step.senders}:
        if endpoint not in explained and not is_refusing and ("gap", route_of(endpoint), endpoint) not in open_keys:
            yield from _new_gap(_Sender(by_time.fives, endpoint, own), now_ms=now_ms)
    for one in open_keys.values():
        if one.kind == "gap" and now_ms - one.began_ms < _DAYS * DAY_MS:
            sender = _Sender(by_time.fives, one.scope, own)
            if not any(sender.came(at_ms) for at_ms in range(one.began_ms, now_ms + 1, FIVE_MS)):
                yield one


@dataclass(frozen=True, slots=True)
class _Sender:
    fives: Series
    endpoint: str
    own: Own

    def came(self, at_ms: int) -> int | None:
        """Return how many requests were accepted in these five minutes, our own alerts' left out; None: not known."""
        step = self.fives.get(at_ms)
        if step is None:
            return None
        less = self.own.came.get(at_ms, 0) if self.endpoint == WEBHOOK else 0
        return max(0, step.senders.get(self.endpoint, 0) - less)

    def total(self, steps: range, *, shift_ms: int = 0) -> int | None:
        """Return how many came in all of these, so much earlier; None: too little of it is known."""
        known = [count for at_ms in steps if (count := self.came(at_ms - shift_ms)) is not None]
        return sum(known) if len(known) >= _KNOWN_SHARE * len(steps) else None


def _new_gap(sender: _Sender, *, now_ms: int) -> Iterator[Incident]:
    begin_ms = now_ms - now_ms % FIVE_MS + FIVE_MS
    while sender.came(begin_ms - FIVE_MS) == 0 and begin_ms > now_ms - DAY_MS:  # only while the daemon ran
        begin_ms -= FIVE_MS
    missed = _missed(sender, begin_ms, now_ms=now_ms)
    if missed >= MISSED_MIN:
        cause = f"nothing came since; in these minutes of every day before, at least {missed} requests did"
        route = route_of(sender.endpoint)
        yield Incident(kind="gap", route=route, scope=sender.endpoint, cause=cause, began_ms=begin_ms)


def _missed(sender: _Sender, begin_ms: int, *, now_ms: int) -> int:
    """Return how many requests came at least in the same time of each day that is known; 0 where too little is.

    Some time at both ends is left out, an hour after hours: who comes a little earlier or later is not missed.
    """
    slack_ms = min(max(1, (now_ms - begin_ms) // 3 // FIVE_MS) * FIVE_MS, HOUR_MS)
    steps = range(begin_ms + slack_ms, now_ms - now_ms % FIVE_MS - slack_ms, FIVE_MS)
    days, least = 0, 0
    for day in range(1, _DAYS + 1) if steps else ():
        counts = [sender.total(steps, shift_ms=day * DAY_MS + shift_ms) for shift_ms in _SHIFTS_MS]
        if counts[0] is None:
            continue
        of_day = min(count for count in counts if count is not None)
        if of_day < MISSED_MIN:
            return 0
        days, least = days + 1, min(least or of_day, of_day)
    # Before a whole week is known the first weekend looks like a failure, unless it stops from one minute to the next.
    before = sender.total(range(begin_ms - HOUR_MS, begin_ms, FIVE_MS)) or 0
    return least if days == _DAYS or before >= MISSED_MIN else 0


def _dying(by_time: TotalsByTime, open_keys: Collection[Key], *, own: Own, now_ms: int) -> Iterator[Incident]:
    steps = [step for _, step in by_time.minutes.between(now_ms - WINDOW_MS, now_ms + 1)]
    for route in RouteName:
        flows = [step.flows[route] for step in steps if route in step.flows]
        # What is replayed leaves the total and comes back to it: that is no growth.
        grown = flows[-1].dead - (flows[0].dead - flows[0].died - flows[0].erased) if flows else 0
        grown -= sum(flow.erased for flow in flows)
        grown -= own.dead if route is RouteName.COURIER_TO_RUDDERSTACK else 0
        if grown >= DEAD_MIN or (grown > 0 and ("dead", route, "route") in open_keys):
            cause = f"{grown} events died within ten minutes"
            yield Incident(kind="dead", route=route, scope="route", cause=cause, began_ms=now_ms)
