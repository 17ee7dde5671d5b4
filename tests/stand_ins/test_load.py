"""What a test sends comes whole, once, and again where a resend is wanted."""

from forwarder.demo.workflow import Workflow
from stand_ins.load import at_concurrency, resent, workflow_events

NOW_MS = 1_767_225_600_000


async def test_concurrency_takes_each_item_once() -> None:
    """Every item is acted on once, whatever the number of workers."""
    done: list[int] = []

    async def act(item: int) -> None:
        done.append(item)

    await at_concurrency(range(50), act, concurrency=8)
    assert sorted(done) == list(range(50))


def test_resends_repeat_earlier_events() -> None:
    """A share of the events comes again, after its first copy."""
    events = list(workflow_events(Workflow(seed=1), 400, now_ms=NOW_MS))
    played = resent(events, share=0.1, seed=1)

    assert 410 < len(played) < 480
    assert {event.facts.key for event in played} == {event.facts.key for event in events}
    assert list(dict.fromkeys(event.facts.key for event in played)) == [event.facts.key for event in events]
