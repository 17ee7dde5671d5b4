"""What came of a run: the promises that were not kept, and the table."""

from proof.account import ReplicaCopies, faults
from proof.run import INBOUND, OUTBOUND, Story
from proof.table import machine, table


def wrong(story: Story) -> list[str]:
    """Return every promise that was not kept."""
    return [
        *(f"outbound: {one}" for one in faults(story.outbound, story.totals[OUTBOUND], dead=story.refused_webhooks)),
        *(f"inbound: {one}" for one in faults(story.inbound, story.totals[INBOUND], dead=story.refused_calls)),
        *story.copies.unexplained,
        *story.effects_twice,
        *(f"calls of {user} took effect in another order" for user in story.order.broken()),
        *story.scrapes.wrong,
    ]


def summary(story: Story, *, seed: int, took_s: float) -> str:
    """Return the run in one table."""
    sides = ((story.outbound, story.totals[OUTBOUND]), (story.inbound, story.totals[INBOUND]))
    copies = story.copies
    rows: dict[str, tuple[object, object]] = {
        "acknowledged": (story.outbound.acknowledged, story.inbound.acknowledged),
        "lost": (len(story.outbound.missing()), len(story.inbound.missing())),
        **{
            state: (sides[0][1][state], sides[1][1][state])
            for state in ("delivered", "filtered", "unmapped", "dead", "pending")
        },
        "refused for good by the destination": (story.refused_webhooks, story.refused_calls),
        "resent by the sender, taken once": (story.outbound.resent, story.inbound.resent),
        "copies on the wire": (story.outbound.duplicates, story.inbound.duplicates),
        "  in flight at a kill": (copies.after_kill, "-"),
        **({"  in hand when a lease lapsed": (copies.after_lapse, "-")} if isinstance(copies, ReplicaCopies) else {}),
        "  taken by a destination that cut its answer": (copies.after_cut, "-"),
        "  a membership put again": ("-", story.memberships_again),
        "  without a reason": (len(copies.unexplained), len(story.effects_twice)),
        "calls compared with their user's order": ("-", story.order.compared),
        "users whose calls took effect out of order": ("-", len(story.order.broken())),
    }
    starts = sorted(story.starts_s)
    found = table(("Courier to RudderStack", "RudderStack to Courier"), rows)
    faults_met = ", ".join(f"{count} of {kind}" for kind, count in sorted(story.faults.items()))
    back = {kind: sorted(found) for kind, found in sorted(story.back_s.items())}
    lines = [
        f"\nuntil an event is taken again, after {kind}: {f[len(f) // 2]:.1f} s (median), {f[-1]:.1f} s at most"
        for kind, f in back.items()
    ]
    what = faults_met or f"{story.kills:,} kills (SIGKILL), {story.kills_at_start:,} of them during a start"
    return (
        f"{what}; seed {seed}; {took_s:,.0f} s\n{machine()}\n\n{found}\n"
        f"scrapes whose totals balance: {story.scrapes.seen - len(story.scrapes.wrong):,} of {story.scrapes.seen:,}; "
        f"a start took {starts[len(starts) // 2]:.2f} s (median), {starts[-1]:.2f} s at most{''.join(lines)}"
    )
