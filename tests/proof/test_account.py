"""The accounts of a chaos run and of power cuts find each broken promise, and nothing where all were kept."""

from forwarder.demo.facts import Facts, Ledger, Sighting
from proof.account import Copies, Order, ReplicaCopies, Scrapes, faults
from proof.power_cuts import Kept

TOTALS = {"accepted": 1, "pending": 0, "delivered": 1, "filtered": 0, "unmapped": 0, "dead": 0}


def facts(key: str, user: str = "u") -> Facts:
    """Return what is true of an event."""
    return Facts(key=(key,), name="n", user=user)


def arrival(key: str, user: str = "u") -> Sighting:
    """Return its arrival."""
    return Sighting(key=(key,), name="n", user=user, at_ms=None, message_id="")


def ledger_of(*, arrives: bool) -> Ledger:
    """Return the account of one acknowledged event."""
    ledger = Ledger()
    ledger.post(facts("a"))
    ledger.acknowledge(("a",))
    if arrives:
        ledger.see(arrival("a"))
    return ledger


def test_a_loss_and_totals_that_say_otherwise_are_faults() -> None:
    """What was acknowledged and never came is lost; totals that do not agree with both ends are wrong."""
    assert faults(ledger_of(arrives=True), TOTALS, dead=0) == []
    assert any("lost" in fault for fault in faults(ledger_of(arrives=False), TOTALS, dead=0))
    assert any("totals" in fault for fault in faults(ledger_of(arrives=True), TOTALS | {"accepted": 2}, dead=0))
    assert any("totals" in fault for fault in faults(ledger_of(arrives=True), TOTALS, dead=1))


def test_a_copy_needs_a_reason() -> None:
    """A kill between, or an answer that was cut off, explains a copy; nothing else does."""
    copies = Copies()
    copies.see(("killed",), life=1, is_answered=True)
    copies.see(("killed",), life=2, is_answered=True)
    copies.see(("cut",), life=1, is_answered=False)
    copies.see(("cut",), life=1, is_answered=True)
    assert (copies.after_kill, copies.after_cut, copies.unexplained) == (1, 1, [])

    copies.see(("cut",), life=1, is_answered=True)
    assert len(copies.unexplained) == 1


def test_a_copy_between_replicas_needs_a_reason_that_lies_with_the_first() -> None:
    """A kill of who sent it first, its lease that lapsed, or an answer cut off; never what befell who sent it again."""
    copies = ReplicaCopies()
    copies.kill("a")
    copies.see(("killed",), life="a", at_s=0.0, is_answered=True)
    copies.see(("killed",), life="b", at_s=1.0, is_answered=True)
    copies.away("c", from_s=0.0, until_s=28.0)
    copies.see(("lapsed",), life="c", at_s=0.1, is_answered=True)
    copies.see(("lapsed",), life="b", at_s=27.0, is_answered=True)
    copies.see(("cut",), life="b", at_s=0.0, is_answered=False)
    copies.see(("cut",), life="b", at_s=1.0, is_answered=True)
    assert (copies.after_kill, copies.after_lapse, copies.after_cut, copies.unexplained) == (1, 1, 1, [])

    copies.see(("woken",), life="b", at_s=26.0, is_answered=True)
    copies.see(("woken",), life="c", at_s=28.5, is_answered=True)  # who was stopped sends what another took over
    copies.see(("early",), life="c", at_s=0.1, is_answered=True)
    copies.see(("early",), life="b", at_s=5.0, is_answered=True)  # its lease was not over yet
    copies.see(("twice",), life="b", at_s=0.0, is_answered=True)
    copies.see(("twice",), life="b", at_s=1.0, is_answered=True)
    assert len(copies.unexplained) == 3


def test_order_is_per_user_whichever_end_tells_first() -> None:
    """Two of one user that changed places are found, also before both were acknowledged; other users' never matter."""
    order = Order()
    order.apply(arrival("a"))
    order.post(facts("a"))
    order.post(facts("x", "other"))
    order.post(facts("b"))
    order.apply(arrival("b"))
    order.apply(arrival("x", "other"))
    assert (order.broken(), order.compared) == ([], 3)

    for key in "cd":
        order.post(facts(key))
    for key in "dc":
        order.apply(arrival(key))
    assert order.broken() == ["u"]


def test_a_call_without_its_effect_breaks_the_order() -> None:
    """At the end nothing may be left over."""
    order = Order()
    order.post(facts("a"))
    assert order.broken() == ["u"]


def test_totals_balance_and_never_go_back() -> None:
    """A scrape that does not add up, and one that has forgotten events, are told."""
    scrapes = Scrapes()
    scrapes.see({"r": TOTALS})
    assert scrapes.wrong == []
    scrapes.see({"r": TOTALS | {"pending": 1}})
    scrapes.see({"r": dict.fromkeys(TOTALS, 0)})
    assert len(scrapes.wrong) == 2


def test_an_order_and_a_settlement_that_a_cut_broke_are_faults() -> None:
    """What is leased before an older one of its partition is wrong, and what is leased though it is settled."""
    kept = Kept(acknowledged={1, 6, 11, 31}, settled={1})
    assert kept.fault_of(11) == ""
    assert kept.fault_of(6) == ""  # of no partition
    assert kept.fault_of(31) == "event 31 is leased before [11]"
    assert kept.fault_of(1) == "event 1 was settled and is leased"
    kept.replayed.add(11)
    assert kept.fault_of(31) == ""
