"""The plan of one event: what is kept of it, and under which key each call goes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.delivery.plan import Fate, Plan, PlannedCall, delivery_of, idempotency_key, new_plan, read_plan, replan
from forwarder.model import Delivery, Effect, Envelope, Lease, RouteName

KEY = b"k" * 16


def _deliveries(*operations: str) -> tuple[Delivery, ...]:
    return tuple(
        Delivery(sequence=1, operation=operation, body=b"{}", group=operation.split("/")[1]) for operation in operations
    )


def _lease(progress: bytes) -> Lease:
    envelope = Envelope(
        route=RouteName.RUDDERSTACK_TO_COURIER, event_key=KEY, partition_key="u", received_at_ms=0, payload=b"{}"
    )
    return Lease(sequence=1, attempt=1, first_failed_at_ms=None, progress=progress, envelope=envelope)


def test_same_call_same_key_whatever_its_body() -> None:
    """A key depends on event, operation, position and suffix, and on nothing else."""
    call = PlannedCall(operation="POST /send", group="send", body=b"1")
    key = idempotency_key(KEY, call)
    assert len(key) == 32
    assert key == idempotency_key(KEY, PlannedCall(operation="POST /send", group="send", body=b"2"))
    others = [
        idempotency_key(b"o" * 16, call),
        idempotency_key(KEY, PlannedCall(operation="POST /lists", group="send")),
        idempotency_key(KEY, PlannedCall(operation="POST /send", group="send", position=1)),
        idempotency_key(KEY, PlannedCall(operation="POST /send", group="send", suffix=1)),
    ]
    assert len({key, *others}) == 5


def test_a_call_that_occurs_twice_has_two_keys() -> None:
    """Equal operations of one event are told apart by their position."""
    plan = new_plan(_deliveries("POST /send", "POST /lists/a", "POST /send"))
    assert [call.position for call in plan.calls] == [0, 0, 1]


STEPS = {"5": (Effect.ANSWERED, 500), "4": (Effect.ANSWERED, 409), "?": (Effect.UNKNOWN, None), "-": (Effect.NONE, 429)}


@pytest.mark.parametrize(
    ("steps", "suffix"),
    [
        ("-", 0),
        ("4", 0),
        ("?", 0),
        ("??", 0),
        ("5", 1),
        ("55", 2),
        ("?5", 0),
        ("?55", 1),
        ("?5?5", 1),
        ("?5-5", 1),
        ("?555", 2),
        ("5?5", 1),
        ("5?55", 2),
    ],
)
def test_suffix(steps: str, suffix: int) -> None:
    """A received 5xx changes the key; while an earlier outcome is unknown only the second one does."""
    call = PlannedCall(operation="POST /send", group="send")
    for step in steps:
        effect, status = STEPS[step]
        call.failed(effect, status)
    assert call.suffix == suffix


@settings(deadline=None, max_examples=100)
@given(steps=st.text(alphabet="54?-", max_size=20))
def test_key_never_changes_without_a_received_5xx(steps: str) -> None:
    """The suffix grows by at most one per received 5xx, and never otherwise."""
    call = PlannedCall(operation="POST /send", group="send")
    for step in steps:
        before = call.suffix
        effect, status = STEPS[step]
        call.failed(effect, status)
        assert call.suffix - before in ({0, 1} if step == "5" else {0})
    assert call.suffix <= steps.count("5")


def test_kept_and_read_again() -> None:
    """What is kept is what is read, and what was under way has an unknown outcome where none is known."""
    plan = new_plan(_deliveries("POST /send", "POST /lists/a"))
    plan.calls[0].close(Fate.DONE)
    plan.is_under_way = True
    again = read_plan(_lease(plan.encoded()))
    assert again is not None
    assert [call.fate for call in again.calls] == [Fate.DONE, Fate.OPEN]
    assert again.calls[0].body == b""
    assert again.calls[1].body == b"{}"
    assert [call.is_unknown for call in again.calls] == [False, True]
    assert not again.is_under_way
    assert again.next() is again.calls[1]


@pytest.mark.parametrize("progress", [b"", b"{", b"[]", b'{"holds":1}', b'{"calls":[{"operation":1}]}'])
def test_unreadable_progress_is_no_plan(progress: bytes) -> None:
    """What cannot be read is planned anew."""
    assert read_plan(_lease(progress)) is None


def test_outcomes() -> None:
    """A plan tells what was refused, what was done, and when all of it was filtered."""
    plan = new_plan(_deliveries("POST /profiles/u", "POST /send", "POST /lists/a", "POST /lists/b"))
    plan.calls[0].close(Fate.DONE)
    plan.calls[1].close(Fate.REFUSED, reason="400", words="bad")
    plan.calls[2].close(Fate.DONE)
    plan.calls[3].close(Fate.DONE)
    assert plan.next() is None
    refused = plan.refused()
    assert refused is not None
    assert (refused.reason, refused.words) == ("400", "bad")
    assert plan.what_was_done() == "done: lists (2), profiles"
    assert plan.why_filtered() is None


def test_outcomes_of_few() -> None:
    """One call needs no account; two refused ones say that nothing was done; all filtered says why."""
    one = new_plan(_deliveries("POST /send"))
    one.calls[0].close(Fate.FILTERED, reason="422")
    assert (one.what_was_done(), one.why_filtered()) == ("", "422")
    two = new_plan(_deliveries("POST /send", "POST /send"))
    for call in two.calls:
        call.close(Fate.REFUSED)
    assert two.what_was_done() == "nothing else was done"
    assert Plan(calls=[]).why_filtered() is None


def test_replay_skips_what_was_done() -> None:
    """A replay makes what was not done, under a new key where the old one has a stored answer."""
    old = new_plan(_deliveries("POST /profiles/u", "POST /send", "POST /lists/gone", "POST /journeys/j"))
    old.calls[0].close(Fate.DONE)
    old.calls[1].close(Fate.REFUSED)
    old.calls[3].is_unknown = True
    plan = replan(
        old, _deliveries("POST /profiles/u", "POST /send", "POST /lists/new", "POST /journeys/j"), everything=False
    )
    assert [call.fate for call in plan.calls] == [Fate.DONE, Fate.OPEN, Fate.OPEN, Fate.OPEN]
    assert [call.suffix for call in plan.calls] == [0, 1, 0, 0]


def test_a_replay_of_everything_skips_nothing() -> None:
    """Every call is open again, and none reuses a key, not even one whose outcome is unknown."""
    old = new_plan(_deliveries("POST /profiles/u", "POST /send", "POST /journeys/j"))
    old.calls[0].close(Fate.DONE)
    old.calls[1].close(Fate.REFUSED)
    old.calls[2].is_unknown = True
    deliveries = _deliveries("POST /profiles/u", "POST /send", "POST /journeys/j")
    plan = replan(old, deliveries, everything=True)
    assert [call.fate for call in plan.calls] == [Fate.OPEN] * 3
    assert [call.suffix for call in plan.calls] == [1, 1, 1]
    assert not any(call.is_unknown for call in plan.calls)


def test_a_link_that_is_changed_back_is_remembered() -> None:
    """A call that an earlier plan made stays done though another plan came between, and its key moves on."""
    first = new_plan(_deliveries("POST /automations/a"))
    first.calls[0].close(Fate.DONE)
    second = replan(first, _deliveries("POST /automations/b"), everything=False)
    assert [call.fate for call in second.calls] == [Fate.OPEN]
    back = read_plan(_lease(second.encoded()))
    assert back is not None
    assert [call.fate for call in replan(back, _deliveries("POST /automations/a"), everything=False).calls] == [
        Fate.DONE
    ]
    again = replan(back, _deliveries("POST /automations/a"), everything=True)
    assert [(call.fate, call.suffix) for call in again.calls] == [(Fate.OPEN, 1)]
    assert [call.operation for call in again.former] == ["POST /automations/b"]


def test_delivery_carries_key_and_group() -> None:
    """The sink gets everything it needs of a call."""
    call = new_plan(_deliveries("POST /send")).calls[0]
    delivery = delivery_of(_lease(b""), call)
    assert (delivery.operation, delivery.group, delivery.body) == ("POST /send", "send", b"{}")
    assert delivery.idempotency_key == idempotency_key(KEY, call)


def test_calls_of_one_operation_are_told_apart() -> None:
    """The same operation thrice has three places, and so three keys."""
    plan = new_plan(_deliveries("POST /send", "POST /send", "POST /lists/a", "POST /send"))
    assert [call.position for call in plan.calls] == [0, 1, 0, 2]
    assert len({idempotency_key(KEY, call) for call in plan.calls}) == 4
    assert plan.refused() is None
    delivery = delivery_of(_lease(b""), plan.calls[3])
    assert (delivery.sequence, delivery.idempotency_key) == (1, idempotency_key(KEY, plan.calls[3]))


def test_a_replay_with_a_new_call_first_knows_the_old_ones() -> None:
    """A call that was not planned before hides none that was; what is kept of former ones has no body."""
    old = new_plan(_deliveries("POST /send", "POST /lists/a"))
    old.calls[0].close(Fate.DONE)
    plan = replan(old, _deliveries("POST /profiles/u", "POST /send"), everything=False)
    assert [call.fate for call in plan.calls] == [Fate.OPEN, Fate.DONE]
    assert [(call.operation, call.body) for call in plan.former] == [("POST /lists/a", b"")]


def test_progress_is_json() -> None:
    """What is kept can be shown."""
    shown: Any = msgspec.json.decode(new_plan(_deliveries("POST /send")).encoded())
    assert shown["calls"][0]["operation"] == "POST /send"
