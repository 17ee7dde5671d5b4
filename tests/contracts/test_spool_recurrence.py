"""What every spool promises about events that carry neither id nor time."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from forwarder.model import Envelope, Receipt, Recurrence, RouteName
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.recurrence import occurrence_key
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import leased, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
NEW = Receipt(accepted=1, duplicates=0)
COPY = Receipt(accepted=0, duplicates=1)
MINUTE_MS = 60_000
HOUR_MS = 3_600_000


def recurrence(side: str = "matched", *, subject: bytes | None = b"audience and user") -> Recurrence:
    """Return what the audience events have."""
    return Recurrence(resend_s=1_200, resend_max_s=93_600, subject=subject, side=side)


@pytest.mark.parametrize(
    ("gap_ms", "receipt"),
    [(0, COPY), (20 * MINUTE_MS, COPY), (20 * MINUTE_MS + 1, NEW), (-MINUTE_MS, COPY), (-MINUTE_MS - 1, NEW)],
    ids=["at once", "within twenty minutes", "later", "overtaken", "the clock was set back"],
)
async def test_without_a_subject_only_the_short_time_counts(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any, gap_ms: int, receipt: Receipt
) -> None:
    """An equal event is a resend within twenty minutes of its last copy, else new."""
    envelope = make_envelope(1, recurrence=recurrence(subject=None))
    assert await stored(spool, [envelope]) == NEW
    clock.now_ms += gap_ms
    assert await stored(spool, [make_envelope(1, recurrence=recurrence(subject=None))]) == receipt


async def test_every_copy_prolongs_the_short_time(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """The twenty minutes count from the last copy, not from the first."""
    await stored(spool, [make_envelope(1, recurrence=recurrence(subject=None))])
    for _ in range(4):
        clock.now_ms += 15 * MINUTE_MS
        assert await stored(spool, [make_envelope(1, recurrence=recurrence(subject=None))]) == COPY


@pytest.mark.parametrize(
    ("gap_ms", "receipt"), [(26 * HOUR_MS, COPY), (26 * HOUR_MS + 1, NEW)], ids=["within 26 hours", "later"]
)
async def test_without_its_opposite_a_late_copy_is_a_resend(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any, gap_ms: int, receipt: Receipt
) -> None:
    """A user cannot enter twice without having left: up to 26 hours it is the same event."""
    await stored(spool, [make_envelope(1, recurrence=recurrence())])
    clock.now_ms += gap_ms
    assert await stored(spool, [make_envelope(1, recurrence=recurrence())]) == receipt


async def test_the_opposite_in_between_makes_it_new(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """Entered, left, entered again: three events, each with a key of its own."""
    await stored(spool, [make_envelope(1, recurrence=recurrence())])
    clock.now_ms += HOUR_MS
    assert await stored(spool, [make_envelope(2, recurrence=recurrence("unmatched"))]) == NEW
    clock.now_ms += HOUR_MS
    assert await stored(spool, [make_envelope(1, recurrence=recurrence())]) == NEW
    leases = await leased(spool, OUT, fresh=9, retry=9, size=10_000)
    assert len({lease.envelope.event_key for lease in leases}) == 3
    assert all(lease.envelope.recurrence is None for lease in leases)
    assert leases[0].envelope.event_key != make_envelope(1).event_key


def test_an_occurrence_keeps_its_key_over_versions() -> None:
    """What was sent before an upgrade with an unknown outcome is sent again under the same key."""
    assert occurrence_key(bytes(range(16)), 7).hex() == "18abbd3bb0c332e625e9bebce9381d02"


async def test_an_opposite_of_another_subject_does_not_count(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """Another user's leaving says nothing about this one."""
    await stored(spool, [make_envelope(1, recurrence=recurrence())])
    clock.now_ms += HOUR_MS
    await stored(spool, [make_envelope(2, recurrence=recurrence("unmatched", subject=b"another"))])
    clock.now_ms += HOUR_MS
    assert await stored(spool, [make_envelope(1, recurrence=recurrence())]) == COPY


async def test_an_opposite_before_it_does_not_count(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """What matters is what came since this occurrence began."""
    await stored(spool, [make_envelope(2, recurrence=recurrence("unmatched"))])
    await stored(spool, [make_envelope(1, recurrence=recurrence())])
    clock.now_ms += HOUR_MS
    assert await stored(spool, [make_envelope(1, recurrence=recurrence())]) == COPY


async def test_copies_within_one_append_are_one_event(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A request that brings the same event twice brings it once."""
    envelope = make_envelope(1, recurrence=recurrence())
    assert await stored(spool, [envelope, envelope]) == Receipt(accepted=1, duplicates=1)


async def test_keys_live_as_long_as_the_retention(
    open_spool: Callable[..., Awaitable[MemorySpool | SqliteSpool]], make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """A copy is recognised over the whole retention, and may be taken for new some time after."""
    spool = await open_spool(SpoolLimits(retention_s=80_000))
    await stored(spool, [make_envelope(1)])
    clock.now_ms += 79_000_000
    assert await stored(spool, [make_envelope(1)]) == COPY
