"""The ledger finds every loss and every wrong arrival, in whatever order things happen."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.demo.facts import Facts, Ledger, Sighting

FACTS = Facts(key=("message", "m1", "SENT"), name="Message Sent", user="u1", at_ms=5)
SEEN = Sighting(key=FACTS.key, name="Message Sent", user="u1", at_ms=5, message_id="id-1")


def test_what_is_acknowledged_and_arrives_is_delivered() -> None:
    """Acknowledgement and arrival may come in any order; nothing is missing then."""
    for order in (("ack", "see"), ("see", "ack")):
        ledger = Ledger()
        ledger.post(FACTS)
        for step in order:
            if step == "ack":
                ledger.acknowledge(FACTS.key)
            else:
                ledger.see(SEEN)
        assert (ledger.acknowledged, ledger.delivered, list(ledger.missing()), list(ledger.wrong)) == (1, 1, [], [])


def test_a_loss_is_found() -> None:
    """The control: an event that was acknowledged and never arrived is missing."""
    ledger = Ledger()
    ledger.post(FACTS)
    ledger.acknowledge(FACTS.key)

    assert ledger.missing() == [FACTS]


def test_what_was_never_acknowledged_is_not_missing() -> None:
    """A sender that heard no 2xx was promised nothing."""
    ledger = Ledger()
    ledger.post(FACTS)

    assert ledger.missing() == []
    assert ledger.acknowledged == 0


def test_an_equal_copy_is_a_duplicate_and_no_mistake() -> None:
    """The destination may see an event twice, if all of it is the same."""
    ledger = Ledger()
    ledger.post(FACTS)
    ledger.see(SEEN)
    ledger.see(SEEN)
    ledger.acknowledge(FACTS.key)
    ledger.acknowledge(FACTS.key)
    ledger.post(FACTS)
    ledger.see(SEEN)

    assert (ledger.delivered, ledger.duplicates, ledger.acknowledged, list(ledger.wrong)) == (1, 2, 1, [])
    assert ledger.resent == 1


@pytest.mark.parametrize(
    ("sighting", "words"),
    [
        (Sighting(key=FACTS.key, name="Message Opened", user="u1", at_ms=5, message_id="i"), "name or user"),
        (Sighting(key=FACTS.key, name="Message Sent", user="u2", at_ms=5, message_id="i"), "name or user"),
        (Sighting(key=FACTS.key, name="Message Sent", user="u1", at_ms=6, message_id="i"), "time"),
        (Sighting(key=("other",), name="Message Sent", user="u1", at_ms=5, message_id="i"), "nobody posted"),
    ],
    ids=["name", "user", "time", "unknown"],
)
def test_a_wrong_arrival_is_found(sighting: Sighting, words: str) -> None:
    """Name, user and time are compared with what was posted."""
    ledger = Ledger()
    ledger.post(FACTS)
    ledger.see(sighting)

    assert [words in wrong for wrong in ledger.wrong] == [True]


def test_a_copy_with_another_message_id_is_found() -> None:
    """A resend that the destination cannot collapse is a mistake."""
    ledger = Ledger()
    ledger.post(FACTS)
    ledger.see(SEEN)
    ledger.see(Sighting(key=FACTS.key, name="Message Sent", user="u1", at_ms=5, message_id="id-2"))

    assert [wrong.startswith("a copy differs") for wrong in ledger.wrong] == [True]


def test_two_events_with_one_message_id_are_found() -> None:
    """Distinct events never share a messageId."""
    other = Facts(key=("message", "m2", "SENT"), name="Message Sent", user="u1", at_ms=5)
    ledger = Ledger()
    ledger.post(FACTS)
    ledger.post(other)
    ledger.see(SEEN)
    ledger.see(Sighting(key=other.key, name="Message Sent", user="u1", at_ms=5, message_id="id-1"))

    assert [wrong.startswith("two events share") for wrong in ledger.wrong] == [True]


def test_what_must_not_arrive_is_silent_and_its_arrival_wrong() -> None:
    """A filtered event is done when it is acknowledged; its arrival would be a mistake."""
    silent = Facts(key=("message", "m1", "ENQUEUED"), name=None, user="u1")
    ledger = Ledger()
    ledger.post(silent)
    ledger.acknowledge(silent.key)
    assert (ledger.silent, list(ledger.missing())) == (1, [])

    other = Ledger()
    other.post(silent)
    other.see(Sighting(key=silent.key, name="x", user="u1", at_ms=None, message_id="i"))
    assert len(other.wrong) == 1


def test_memory_is_bounded() -> None:
    """Only what is under way and a fixed number of finished events is remembered."""
    ledger = Ledger(kept_max=2)
    for n in range(5):
        facts = Facts(key=(str(n),), name="n", user="u")
        ledger.post(facts)
        ledger.acknowledge(facts.key)
        ledger.see(Sighting(key=facts.key, name="n", user="u", at_ms=None, message_id=str(n)))

    assert (ledger.delivered, len(ledger._done), len(ledger._owners), len(ledger._open)) == (5, 2, 2, 0)  # noqa: SLF001 - what must stay small is private


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.randoms(use_true_random=False))
def test_missing_is_exactly_acknowledged_minus_seen(acknowledged: set[int], seen: set[int], order: object) -> None:
    """Whatever happened in whatever order, the account is the difference of the two sets."""
    ledger = Ledger()
    for n in range(31):
        ledger.post(Facts(key=(str(n),), name="n", user="u"))
    steps = [("ack", n) for n in sorted(acknowledged)] + [("see", n) for n in sorted(seen)]
    order.shuffle(steps)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    for step, n in steps:
        if step == "ack":
            ledger.acknowledge((str(n),))
        else:
            ledger.see(Sighting(key=(str(n),), name="n", user="u", at_ms=None, message_id=str(n)))

    assert {int(facts.key[0]) for facts in ledger.missing()} == acknowledged - seen
    assert ledger.delivered == len(seen)
