"""The plan of one event: which calls it takes, and what became of each. Pure.

It is made at the event's first attempt and kept with the event, so that a retry repeats nothing that
succeeded and a link that changed meanwhile does not shift it. What an answer means is not decided here.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from http import HTTPStatus
from typing import Final

import msgspec
from isal import isal_zlib

from forwarder.model import Delivery, Effect, Lease

_KEY_BYTES: Final = 16
_FORMER_MAX: Final = 50


class Fate(StrEnum):
    """What became of a call."""

    OPEN = ""
    DONE = "done"
    FILTERED = "filtered"
    REFUSED = "refused"


class PlannedCall(msgspec.Struct, omit_defaults=True):
    """One call of a plan. Once its fate is known the body is dropped."""

    operation: str
    group: str
    body: bytes = b""
    position: int = 0  # among the calls of the same operation
    fate: Fate = Fate.OPEN
    reason: str = ""  # of a refusal or a filter, in our words
    words: str = ""  # the destination's, of a refusal: shown, never logged
    suffix: int = 0  # of the idempotency key
    is_unknown: bool = False  # an earlier attempt may have been done
    digest: int = 0  # crc32 of the body that was sent, once that is dropped
    server_errors: int = 0  # received while the outcome of an earlier attempt is unknown

    @property
    def identity(self) -> tuple[str, int]:
        """What makes it the same call in another plan of the same event."""
        return self.operation, self.position

    @property
    def sent_digest(self) -> int:
        """The crc32 of the body that was sent, or will be; 0 where it is not known."""
        return isal_zlib.crc32(self.body) if self.body else self.digest

    def close(self, fate: Fate, *, reason: str = "", words: str = "") -> None:
        """Set what became of the call."""
        self.digest = self.sent_digest
        self.fate, self.reason, self.words, self.body = fate, reason, words, b""
        self.is_unknown = False
        self.server_errors = 0

    def failed(self, effect: Effect, status: int | None) -> None:
        """Learn from an attempt that did not succeed, and choose the key of the next one.

        Courier replays a received 5xx to the same key for as long as it keeps it: the next attempt needs another
        key. But an earlier attempt whose outcome is unknown may have been done under this key: then only a
        second 5xx proves enough. A time-out, a lost connection or a 429 leave the key as it is.
        """
        if effect is Effect.UNKNOWN:
            self.is_unknown = True
        if effect is not Effect.ANSWERED or status is None or status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return
        self.server_errors += 1
        if not self.is_unknown or self.server_errors > 1:
            self._change_key()

    def replayed(self) -> None:
        """Open the call for a replay: another key, unless what was done under this one is unknown."""
        if not self.is_unknown:
            self._change_key()

    def _change_key(self) -> None:
        self.suffix += 1
        self.is_unknown = False
        self.server_errors = 0


class Plan(msgspec.Struct, omit_defaults=True):
    """The calls of one event, in the order they are made."""

    calls: list[PlannedCall]
    is_under_way: bool = False  # kept before the first call is sent: a crash leaves the outcome of the rest unknown
    is_over: bool = False  # the event was settled: whoever reads this next is a replay
    holds: int = 0  # how many holds this event alone began
    former: list[PlannedCall] = []  # of earlier plans: a link may be changed back, and they be planned again

    def next(self) -> PlannedCall | None:
        """Return the first call whose fate is open, or None when the plan is through."""
        return next((call for call in self.calls if call.fate is Fate.OPEN), None)

    def refused(self) -> PlannedCall | None:
        """Return the first call that was refused for good, or None."""
        return next((call for call in self.calls if call.fate is Fate.REFUSED), None)

    def why_filtered(self) -> str | None:
        """Return why the event ends as filtered: every call of it did; None otherwise."""
        if not self.calls or any(call.fate is not Fate.FILTERED for call in self.calls):
            return None
        return self.calls[0].reason

    def what_was_done(self) -> str:
        """Return how the calls of a refused event went, by group; "" when it had only one call."""
        if len(self.calls) == 1:
            return ""
        done = Counter(call.group for call in self.calls if call.fate is Fate.DONE)
        if not done:
            return "nothing else was done"
        return "done: " + ", ".join(
            f"{group} ({count})" if count > 1 else group for group, count in sorted(done.items())
        )

    def encoded(self) -> bytes:
        """Return the plan as the spool keeps it."""
        return msgspec.json.encode(self)


def new_plan(deliveries: Sequence[Delivery]) -> Plan:
    """Plan these deliveries, in this order."""
    seen: Counter[str] = Counter()
    calls = []
    for delivery in deliveries:
        calls.append(
            PlannedCall(
                operation=delivery.operation,
                group=delivery.group,
                body=delivery.body,
                position=seen[delivery.operation],
            )
        )
        seen[delivery.operation] += 1
    return Plan(calls=calls)


def read_plan(lease: Lease) -> Plan | None:
    """Return the plan that is kept with the event; None when there is none that can be read."""
    try:
        plan = msgspec.json.decode(lease.progress, type=Plan)
    except msgspec.MsgspecError:
        return None
    if plan.is_under_way:  # the process ended before it heard an answer, or could write it down
        plan.is_under_way = False
        for call in plan.calls:
            call.is_unknown = call.is_unknown or call.fate is Fate.OPEN
    return plan


def replan(old: Plan, deliveries: Sequence[Delivery], *, everything: bool) -> Plan:
    """Plan a replay: what was done stays done, the rest is made anew; with `everything` all of it is."""
    plan = new_plan(deliveries)
    known = {call.identity: call for call in (*old.former, *old.calls)}
    for call in plan.calls:
        before = known.pop(call.identity, None)
        if before is None:
            continue
        call.suffix = before.suffix
        if everything:
            call.replayed()
            continue
        call.is_unknown, call.server_errors = before.is_unknown, before.server_errors
        if before.fate is Fate.DONE:
            call.close(Fate.DONE)
            call.digest = before.sent_digest
        else:
            call.replayed()
    plan.former = list(known.values())[-_FORMER_MAX:]
    for call in plan.former:
        call.body = b""
    return plan


def delivery_of(lease: Lease, call: PlannedCall) -> Delivery:
    """Return the call as the sink takes it."""
    return Delivery(
        sequence=lease.sequence,
        operation=call.operation,
        body=call.body,
        idempotency_key=idempotency_key(lease.envelope.event_key, call),
        group=call.group,
    )


def idempotency_key(event_key: bytes, call: PlannedCall) -> str:
    """Return the key under which the destination collapses resends: same event and call, same key."""
    digest = blake2b(event_key, digest_size=_KEY_BYTES)
    # An operation holds no newline, so that different calls never run into each other.
    digest.update(f"\n{call.operation}\n{call.position}\n{call.suffix}".encode())
    return digest.hexdigest()
