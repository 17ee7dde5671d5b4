"""What every spool promises to those who look at it."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from forwarder.archive_port import AuditRow, EventQuery, EventRow, EventTypeRow, ReasonGroup
from forwarder.errors import NoSuchEvent
from forwarder.model import Attempt, Envelope, Labels, Lease, RouteName, State
from forwarder.operator.walk import walk
from forwarder.spool.limits import SpoolLimits
from forwarder.spool.postgres.spool import PostgresSpool
from forwarder.spool.sqlite import SqliteSpool
from stand_ins.memory_spool import MemorySpool
from stand_ins.spool_acts import give_back, leased, settle, stored

OUT = RouteName.COURIER_TO_RUDDERSTACK
IN = RouteName.RUDDERSTACK_TO_COURIER


async def lease_all(spool: MemorySpool | SqliteSpool, route: RouteName = OUT, *, fresh: int = 100_000) -> list[int]:
    """Lease what there is, however often it takes."""
    leases: list[Lease] = []
    while more := await leased(spool, route, fresh=fresh - len(leases), retry=1_000, size=10**9):
        leases += more
        if len(leases) >= fresh:
            break
    return [lease.sequence for lease in leases]


@pytest.fixture
async def filled(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> MemorySpool | SqliteSpool:
    """Return a spool with 24 events in every state, on both routes."""
    for number in range(1, 25):
        route = IN if number % 4 == 0 else OUT
        labels = Labels(type="t", event=f"event {number % 2}", message_id=f"m{number}", user_id=f"user {number % 3}")
        await stored(spool, [make_envelope(number, route=route, labels=labels)])
        clock.now_ms += 1_000
    await lease_all(spool)
    await lease_all(spool, IN)
    await settle(spool, [1, 2, 3, 4], State.DELIVERED, attempt=an_attempt(200, clock.now_ms))
    await settle(spool, [5, 6, 7], State.FILTERED, reason="not listed")
    await settle(spool, [8], State.UNMAPPED, reason="nothing linked")
    await settle(spool, [9, 10, 11, 12], State.DEAD, reason="refused")
    await settle(spool, [13], State.DEAD, reason="keeps failing: 500", attempt=an_attempt(None, clock.now_ms))
    await give_back(spool, [14, 16], clock.now_ms + 60_000, reason="busy", attempt=an_attempt(503, clock.now_ms))
    await give_back(spool, [15], 0, counts=False)
    return spool


FILTERS: dict[str, list[Any]] = {
    "route": [None, OUT, IN],
    "state": [None, *State],
    "event": [None, "event 1", "none such"],
    "user_id": [None, "user 2"],
    "message_id": [None, "m10"],
    "reason": [None, "refused", "busy"],
    "status": [None, (200, 299), (503, 503), (0, 0)],
    "attempts": [None, (0, 0), (1, 1), (2, 9)],
    "has_discarded": [True, False],
}


def an_attempt(status: int | None, at_ms: int) -> Attempt:
    """Return an exchange that was answered so."""
    return Attempt(at_ms=at_ms, duration_ms=1, operation="o", status=status, outcome="x", reason="", answer=b"")


def expected(rows: Sequence[EventRow], query: EventQuery) -> list[int]:
    """Say what a query must find, newest first."""
    return [
        r.sequence
        for r in rows
        if query.route in (None, r.route)
        and query.state in (None, r.state)
        and query.event in (None, r.labels.event)
        and query.user_id in (None, r.labels.user_id)
        and query.message_id in (None, r.labels.message_id)
        and query.reason in (None, r.reason)
        and (query.status is None or (r.status is not None and query.status[0] <= r.status <= query.status[1]))
        and (query.attempts is None or query.attempts[0] <= r.attempts <= query.attempts[1])
        and (query.has_discarded or not r.is_discarded)
        and (query.received_from_ms is None or r.received_at_ms >= query.received_from_ms)
        and (query.received_to_ms is None or r.received_at_ms < query.received_to_ms)
    ]


async def test_every_combination_of_filters_is_exact(filled: MemorySpool | SqliteSpool) -> None:
    """A listing holds exactly the events that match all filters, newest first."""
    assert await filled.discard([10, 12]) == 2
    rows = (await filled.events(EventQuery(limit=100))).rows
    assert [r.sequence for r in rows] == list(range(24, 0, -1))
    # A database answers a thousand times slower than memory: there every 41st, which meets every pair of values.
    step = 41 if isinstance(filled, PostgresSpool) else 1
    for values in itertools.islice(itertools.product(*FILTERS.values()), 0, None, step):
        query = EventQuery(**dict(zip(FILTERS, values, strict=True)), limit=100)
        page = await filled.events(query)
        assert [r.sequence for r in page.rows] == expected(rows, query), query
        assert (page.next_before, page.is_cut) == (None, False)
        count = await filled.events(replace(query, limit=0))
        assert (count.matched, count.rows, count.next_before) == (len(page.rows), (), None), query


async def test_a_range_of_time_is_exact(filled: MemorySpool | SqliteSpool) -> None:
    """`received_from_ms` is inclusive, `received_to_ms` exclusive."""
    rows = (await filled.events(EventQuery(limit=100))).rows
    for low, high in ((5, 9), (0, 3), (20, 99), (7, 7)):
        query = EventQuery(
            received_from_ms=rows[-1].received_at_ms + low * 1_000,
            received_to_ms=rows[-1].received_at_ms + high * 1_000,
            limit=100,
        )
        assert [r.sequence for r in (await filled.events(query)).rows] == expected(rows, query)


async def test_pages_meet_without_gap_or_overlap(filled: MemorySpool | SqliteSpool) -> None:
    """Going on from `next_before` lists everything once."""
    seen: list[int] = []
    before = None
    while True:
        page = await filled.events(EventQuery(route=OUT, before_sequence=before, limit=5))
        seen += [r.sequence for r in page.rows]
        before = page.next_before
        if before is None:
            break
    assert seen == [n for n in range(24, 0, -1) if n % 4]


async def test_tailing_lists_what_is_newer_oldest_first(filled: MemorySpool | SqliteSpool) -> None:
    """`after_sequence` lists strictly newer events in the order of arrival."""
    page = await filled.events(EventQuery(after_sequence=20, limit=3))
    assert [r.sequence for r in page.rows] == [21, 22, 23]
    page = await filled.events(EventQuery(after_sequence=20, event="event 0"))
    assert [r.sequence for r in page.rows] == [22, 24]
    assert not (await filled.events(EventQuery(after_sequence=24))).rows


async def test_a_text_search_is_bounded_and_goes_on(filled: MemorySpool | SqliteSpool) -> None:
    """Free text looks at `scan_max` rows, says when it was cut, and goes on from `next_before`."""
    rows = (await filled.events(EventQuery(limit=100))).rows
    page = await filled.events(EventQuery(text='"n":3}', scan_max=10))
    assert (page.rows, page.next_before, page.is_cut) == ((), 15, True)
    assert (page.scanned, page.reached_ms) == (10, next(r.received_at_ms for r in rows if r.sequence == 15))
    page = await filled.events(EventQuery(text='"n":3}', before_sequence=15, scan_max=20))
    assert ([r.sequence for r in page.rows], page.next_before, page.is_cut) == ([3], None, False)
    assert (page.scanned, page.reached_ms) == (14, rows[-1].received_at_ms)
    page = await filled.events(EventQuery(text='"n":3}', after_sequence=3, scan_max=10))
    assert (page.rows, page.next_after, page.is_cut, page.scanned) == ((), 13, True, 10)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"N":23}', [23]),
        ("M1", [19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 1]),
        ("nt 0", list(range(24, 0, -2))),
        ("EVENT 1", list(range(23, 0, -2))),
        ("7", [17, 7]),
        ("m_", []),
        ("100%", []),
        ("\\", []),
        ("user 2", list(range(23, 0, -3))),
    ],
)
async def test_a_text_is_part_of_an_id_a_name_or_the_payload(
    filled: MemorySpool | SqliteSpool, text: str, found: list[int]
) -> None:
    """In any case, every character standing for itself; a number finds the event of that number, too."""
    assert [row.sequence for row in (await filled.events(EventQuery(text=text))).rows] == found


async def test_the_last_answer_is_told(filled: MemorySpool | SqliteSpool, clock: Any) -> None:
    """A row has the status of the last answer: 0 where none came, None where nothing was sent; a replay begins anew."""
    rows = {row.sequence: row.status for row in (await filled.events(EventQuery(limit=100))).rows}
    assert (rows[1], rows[5], rows[13], rows[14], rows[15]) == (200, None, 0, 503, None)
    assert await filled.requeue([13]) == 1
    assert (await filled.event(13)).row.status is None
    clock.now_ms += 60_000
    assert 14 in await lease_all(filled)
    await give_back(filled, [14], clock.now_ms + 60_000, counts=False, reason="draining")
    assert (await filled.event(14)).row.status == 503


async def test_an_ascending_listing_goes_on_to_its_end(filled: MemorySpool | SqliteSpool) -> None:
    """Going on from `next_after` lists everything once, oldest first, and None is the end."""
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await filled.events(EventQuery(route=OUT, after_sequence=after, limit=6))
        seen += [r.sequence for r in page.rows]
        after = page.next_after
    assert seen == [n for n in range(1, 25) if n % 4]


async def test_rows_show_where_an_event_is(filled: MemorySpool | SqliteSpool, clock: Any) -> None:
    """A row carries state, attempts, reason, times, source and size."""
    retry = (await filled.event(14)).row
    assert (retry.state, retry.attempts, retry.reason) == (State.PENDING, 1, "busy")
    assert retry.not_before_ms == clock.now_ms + 60_000
    dead = (await filled.event(9)).row
    assert (dead.state, dead.reason, dead.settled_at_ms, dead.source) == (
        State.DEAD,
        "refused",
        clock.now_ms,
        "webhook",
    )
    assert dead.size_bytes == len(b'{"n":9}')


async def test_an_event_is_shown_whole(
    filled: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """The detail carries key, payload and progress; an unknown sequence is `NoSuchEvent`."""
    detail = await filled.event(9)
    assert detail.event_key == make_envelope(9).event_key
    assert detail.payload == b'{"n":9}'
    assert detail.progress == b""
    with pytest.raises(NoSuchEvent):
        await filled.event(99)


async def test_the_books_balance(filled: MemorySpool | SqliteSpool) -> None:
    """The facts show each route's account, its depth and its retries."""
    facts = await filled.facts()
    out, into = facts.totals[OUT], facts.totals[IN]
    assert out.is_balanced()
    assert into.is_balanced()
    assert (out.accepted, out.delivered, out.filtered, out.dead) == (18, 3, 3, 4)
    assert (into.accepted, into.delivered, into.unmapped, into.dead) == (6, 1, 1, 1)
    assert facts.retrying == {OUT: 1, IN: 1}
    assert facts.is_accepting
    assert facts.refusal == ""
    assert facts.unsettled_bytes[OUT] > facts.unsettled_bytes[IN] > 0


async def test_the_oldest_pending_event_is_known(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """The age of the oldest pending event counts from its arrival, wherever it waits."""
    assert (await spool.facts()).oldest_pending_ms == {OUT: None, IN: None}
    start_ms = clock.now_ms
    await stored(spool, [make_envelope(1)])
    clock.now_ms += 5
    await stored(spool, [make_envelope(2)])
    await lease_all(spool)
    await give_back(spool, [1], clock.now_ms + 100)
    assert (await spool.facts()).oldest_pending_ms[OUT] == start_ms
    clock.now_ms += 100
    await lease_all(spool)
    await settle(spool, [1], State.DEAD, reason="no")
    assert (await spool.facts()).oldest_pending_ms[OUT] == start_ms + 5


async def test_reasons_are_grouped_largest_first(filled: MemorySpool | SqliteSpool, clock: Any) -> None:
    """Groups count settled events exactly, with a sample; discarded ones are left out."""
    assert list(await filled.reasons(None, State.DEAD, limit=10)) == [
        ReasonGroup(reason="refused", count=4, sample_sequence=12, last_at_ms=clock.now_ms),
        ReasonGroup(reason="keeps failing: 500", count=1, sample_sequence=13, last_at_ms=clock.now_ms),
    ]
    assert [g.count for g in await filled.reasons(OUT, State.DEAD, limit=1)] == [3]
    assert await filled.discard([12, 9, 9, 1, 99]) == 2
    assert [(g.count, g.sample_sequence) for g in await filled.reasons(None, State.DEAD, limit=1)] == [(2, 11)]
    assert (await filled.event(12)).row.is_discarded
    assert (await filled.facts()).totals[OUT].dead == 4
    assert await filled.requeue([12]) == 1
    assert not (await filled.event(12)).row.is_discarded


async def test_event_types_are_counted(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope], clock: Any
) -> None:
    """Each type and name has one row per route, last seen first."""
    first_ms = clock.now_ms
    await stored(spool, [make_envelope(1), make_envelope(2)])
    clock.now_ms += 10
    await stored(spool, [make_envelope(3, route=IN), make_envelope(2)])
    clock.now_ms += 10
    await stored(spool, [make_envelope(4)])
    assert list(await spool.event_types(None, limit=10)) == [
        EventTypeRow(route=OUT, type="t", event="e", count=3, first_at_ms=first_ms, last_at_ms=first_ms + 20),
        EventTypeRow(route=IN, type="t", event="e", count=1, first_at_ms=first_ms + 10, last_at_ms=first_ms + 10),
    ]
    assert [row.route for row in await spool.event_types(IN, limit=10)] == [IN]


async def test_event_types_are_bounded(
    open_spool: Callable[..., Awaitable[MemorySpool | SqliteSpool]], make_envelope: Callable[..., Envelope]
) -> None:
    """Invented names beyond the limit are stored but not listed; known ones go on being counted."""
    spool = await open_spool(SpoolLimits(event_types_max=3))
    envelopes = [make_envelope(n, labels=Labels(type="t", event=f"e{n}")) for n in range(1, 6)]
    await stored(spool, envelopes)
    await stored(spool, [make_envelope(9, labels=Labels(type="t", event="e1"))])
    rows = await spool.event_types(OUT, limit=10)
    assert {row.event: row.count for row in rows} == {"e1": 2, "e2": 1, "e3": 1}


async def test_the_audit_log_keeps_who_did_what(spool: MemorySpool | SqliteSpool) -> None:
    """Entries come back newest first; one whose act went on is rewritten where it is."""
    rows = [AuditRow(at_ms=4_000_000_000_000 + n, who="page", action="replay", detail=str(n)) for n in range(3)]
    numbers = [await spool.write_audit(row) for row in rows]
    assert list(await spool.audit(limit=2)) == [rows[2], rows[1]]
    ended = replace(rows[1], count=7, outcome="7 delivered")
    assert await spool.write_audit(ended, number=numbers[1]) == numbers[1]
    assert list(await spool.audit(limit=3)) == [rows[2], ended, rows[0]]


async def test_labels_may_hold_anything_json_can(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A lone surrogate in a label or a key of order does not stop an event."""
    labels = Labels(type="t", event="caf\u00e9 \ud800", message_id="\u2028", user_id="\x00")
    await stored(spool, [make_envelope(1, labels=labels, partition="\udfff")])
    assert await lease_all(spool) == [1]
    assert len((await spool.events(EventQuery(message_id="\u2028"))).rows) == 1


@pytest.mark.parametrize("query", [EventQuery(), EventQuery(status=(200, 299)), EventQuery(state=State.DELIVERED)])
async def test_a_walk_of_tiny_steps_misses_nothing(
    spool: MemorySpool | SqliteSpool,
    make_envelope: Callable[..., Envelope],
    clock: Any,
    query: EventQuery,
) -> None:
    """However often a listing or a count is cut, in either direction, all of it is met once."""
    for number in range(1, 61):
        await stored(spool, [make_envelope(number, route=IN if number % 3 else OUT)])
    for route in (OUT, IN):
        sequences = await lease_all(spool, route)
        for start in range(0, len(sequences), 7):
            attempt = an_attempt(200, clock.now_ms)
            await settle(spool, sequences[start : start + 7], State.DELIVERED, attempt=attempt)
    for limit in (0, 100):
        found, matched, position = list[int](), 0, None
        while True:
            page = await spool.events(replace(query, before_sequence=position, limit=limit, budget_s=-1))
            found += [row.sequence for row in page.rows]
            matched, position = matched + page.matched, page.next_before
            if position is None:
                break
        assert matched == 60
        assert found == (list(range(60, 0, -1)) if limit else [])
        matched, position = 0, 0
        while position is not None:
            page = await spool.events(replace(query, after_sequence=position, limit=limit, budget_s=-1))
            matched, position = matched + page.matched, page.next_after
        assert matched == 60


async def test_an_act_of_tiny_steps_reaches_all_of_it(
    spool: MemorySpool | SqliteSpool, make_envelope: Callable[..., Envelope]
) -> None:
    """A walk that is cut at every step, over events that its own act moves, meets each of them once."""
    for number in range(1, 101):
        await stored(spool, [make_envelope(number, route=IN if number % 4 else OUT)])
    for route in (OUT, IN):
        sequences = await lease_all(spool, route)
        await settle(spool, sequences[::3], State.DELIVERED)
        await settle(spool, [one for one in sequences if one not in sequences[::3]], State.DEAD, reason="r")
    query, moved = EventQuery(state=State.DEAD, text='"n"', budget_s=-1), list[int]()
    async for step in walk(spool, query, step_events=7):
        sequences = [row.sequence for row in step.rows]
        moved += sequences
        assert await spool.requeue(sequences) == len(sequences)
    facts = await spool.facts()
    assert len(moved) == len(set(moved)) == sum(totals.pending for totals in facts.totals.values()) == 66
    assert sum(totals.dead for totals in facts.totals.values()) == 0
