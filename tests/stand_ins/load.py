"""Loads for tests: whole streams of events, resends among them, posted so many at a time."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from forwarder.demo.workflow import Workflow, WorkflowEvent

T = TypeVar("T")


def workflow_events(workflow: Workflow, count: int, *, now_ms: int, every_ms: int = 20) -> Iterator[WorkflowEvent]:
    """Yield so many events, message after message, with an audience event after every tenth."""
    left, messages = count, 0
    while left > 0:
        batch, messages = [*workflow.message(now_ms)], messages + 1
        if messages % 10 == 0:
            batch.append(workflow.audience(now_ms))
        yield from batch[:left]
        left -= len(batch)
        now_ms += every_ms


async def at_concurrency(items: Iterable[T], act: Callable[[T], Awaitable[object]], *, concurrency: int) -> None:
    """Run `act` over the items in their order, so many at a time."""
    left = iter(items)

    async def work() -> None:
        for item in left:
            await act(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def resent(events: Iterable[WorkflowEvent], *, share: float, seed: int) -> list[WorkflowEvent]:
    """Return the events with a share of them repeated somewhat later, as senders do that saw no answer."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable stream, not a secret
    result: list[WorkflowEvent] = []
    for event in events:
        result.append(event)
        if chance.random() < share:
            result.append(result[chance.randrange(max(0, len(result) - 50), len(result))])
    return result
