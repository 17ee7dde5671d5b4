"""Erasing: nothing of a person is left but that there was something, and the totals balance."""

from collections.abc import Callable
from typing import Any

import pytest

from forwarder.archive_port import AuditRow, EventQuery
from forwarder.model import Attempt, Envelope, Labels, RouteName, State
from forwarder.ports import Erased
from stand_ins.spool_acts import give_back, leased, settle, stored

OUT, IN = RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER
Make = Callable[..., Envelope]
ADA, BOB = "ada@example.com", "bob"


async def _arrive(spool: Any, make: Make, number: int, user: str, route: RouteName = IN) -> None:
    labels = Labels(type="track", event="Bought", message_id=f"m{number}", user_id=user)
    await stored(spool, [make(number, route=route, partition=user, labels=labels)])


async def _settled(spool: Any, make: Make, attempt: Attempt) -> None:
    """Have eight events settled, in every state, of two users in turn; odd sequences are Ada's."""
    for number in range(1, 9):
        await _arrive(spool, make, number, ADA if number % 2 else BOB, OUT)
    await leased(spool, OUT, fresh=50)
    await leased(spool, OUT, fresh=50)
    for first, state in ((1, State.DELIVERED), (3, State.FILTERED), (5, State.UNMAPPED), (7, State.DEAD)):
        for sequence in (first, first + 1):
            await leased(spool, OUT, fresh=50)
            await spool.note(sequence, b"plan of it")
            await settle(spool, [sequence], state, reason=f"{state.value} for a reason", attempt=attempt)


async def _balanced(spool: Any) -> Any:
    facts = await spool.facts()
    assert all(totals.is_balanced() for totals in facts.totals.values())
    return facts


async def test_settled_events_keep_their_state_alone(spool: Any, make_envelope: Make, failed_attempt: Attempt) -> None:
    """Payload, labels of the person, plan, reason and answers are gone; state, type and name stay; others are whole."""
    await _settled(spool, make_envelope, failed_attempt)
    before = await _balanced(spool)
    assert await spool.erase([1, 3, 5, 7]) == Erased(events=4, pending=0, leased=0)
    for sequence in range(1, 9):
        found = await spool.event(sequence)
        is_erased = bool(sequence % 2)
        assert (found.payload is None) is is_erased
        assert (found.row.labels.user_id, found.row.labels.message_id) == (
            ("", "") if is_erased else (BOB, f"m{sequence}")
        )
        assert (found.row.labels.type, found.row.labels.event) == ("track", "Bought")
        assert (found.row.reason == "erased") is is_erased
        assert (found.progress, found.attempts == ()) == (b"" if is_erased else b"plan of it", is_erased)
        assert found.event_key == sequence.to_bytes(16, "big")
    after = await _balanced(spool)
    assert after.totals == before.totals
    assert (after.open_dead[OUT], after.discarded[OUT]) == (1, 1)
    assert [(group.reason, group.count) for group in await spool.reasons(OUT, State.UNMAPPED, limit=9)] == [
        ("unmapped for a reason", 1)
    ]
    assert (await spool.events(EventQuery(user_id=ADA))).rows == ()
    assert [row.sequence for row in (await spool.events(EventQuery(user_id=BOB))).rows] == [8, 6, 4, 2]


async def test_pending_events_are_dead_and_others_go_on(spool: Any, make_envelope: Make, clock: Any) -> None:
    """What waited, also on a retry, is discarded and never leased; one that is leased is left and counted."""
    for number in range(1, 6):
        await _arrive(spool, make_envelope, number, ADA)
    await _arrive(spool, make_envelope, 6, BOB)
    (ada, bob) = await leased(spool, IN, fresh=50)
    await give_back(spool, [bob.sequence], clock.now_ms + 60_000, reason="busy")
    assert await spool.erase([1, 2, 3, 4, 5]) == Erased(events=4, pending=4, leased=1)
    assert (await spool.event(1)).payload is not None
    await settle(spool, [ada.sequence], State.DELIVERED)
    assert await spool.erase([1, 2, 3, 4, 5]) == Erased(events=5, pending=0, leased=0)
    clock.now_ms += 60_000
    assert [lease.sequence for lease in await leased(spool, IN, fresh=50, retry=50)] == [6]
    assert await spool.erase([6]) == Erased(events=0, pending=0, leased=1)
    await give_back(spool, [6], clock.now_ms + 60_000, reason="busy")
    assert await spool.erase([6]) == Erased(events=1, pending=1, leased=0)
    facts = await _balanced(spool)
    totals = facts.totals[IN]
    assert (totals.pending, totals.delivered, totals.dead) == (0, 1, 5)
    assert (facts.open_dead.get(IN, 0), facts.discarded[IN], facts.retrying.get(IN, 0)) == (0, 5, 0)
    assert facts.unsettled_bytes[IN] == 0


async def test_who_came_behind_an_erased_one_is_leased(spool: Any, make_envelope: Make) -> None:
    """An erased event holds nobody of its order up."""
    for number in (1, 2, 3):
        await _arrive(spool, make_envelope, number, BOB)
    assert await spool.erase([1]) == Erased(events=1, pending=1, leased=0)
    for sequence in (2, 3):
        assert [lease.sequence for lease in await leased(spool, IN, fresh=9)] == [sequence]
        await settle(spool, [sequence], State.DELIVERED)
    await _balanced(spool)


async def test_nothing_brings_an_erased_event_back(spool: Any, make_envelope: Make, failed_attempt: Attempt) -> None:
    """Its key keeps suppressing copies, no replay takes it, a second erasure does no harm, unknown ones are none."""
    await _settled(spool, make_envelope, failed_attempt)
    await spool.erase([1, 3, 5, 7])
    receipt = await stored(spool, [make_envelope(number, route=OUT) for number in (1, 3, 5, 7)])
    assert (receipt.accepted, receipt.duplicates) == (0, 4)
    assert await spool.requeue([1, 3, 5, 7]) == 0
    assert await spool.discard([1, 3, 5, 7]) == 0
    assert await spool.erase([7, 99]) == Erased(events=1, pending=0, leased=0)
    facts = await _balanced(spool)
    assert (facts.open_dead[OUT], facts.discarded[OUT]) == (1, 1)


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        (f"user_id={ADA}", "user_id=(erased)"),
        (f"state=dead user_id={ADA} reason=x", "state=dead user_id=(erased) reason=x"),
        (f"user_id={ADA}.org", f"user_id={ADA}.org"),
        (f"user_id=x{ADA}", f"user_id=x{ADA}"),
        ("state=dead", "state=dead"),
        (f"state=dead, user {ADA}, status 4xx", "state=dead, user (erased), status 4xx"),
        (f"text {ADA}, state dead, user {ADA}", "text (erased), state dead, user (erased)"),
        (f"text={ADA.upper()} from=1", "text=(erased) from=1"),
        (f"state=dead reason=no such user, {ADA}. from=1", "state=dead reason=no such user, (erased). from=1"),
        (f"reason={ADA}.org", f"reason={ADA}.org"),
        (f"state=dead event={ADA}", f"state=dead event={ADA}"),
    ],
)
async def test_the_audit_log_forgets_the_id(spool: Any, detail: str, told: str) -> None:
    """Earlier acts on a person's events stay written down, without his id; no other id is touched."""
    await spool.write_audit(AuditRow(at_ms=4_000_000_000_000, who="page", action="replay", detail=detail, count=3))
    assert await spool.scrub([ADA]) is True
    (line,) = await spool.audit(limit=9)
    assert (line.detail, line.count) == (told, 3)
