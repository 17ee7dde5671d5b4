"""Settings, checks, audit, the progress of jobs, and the description of every form."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from forwarder.errors import SpoolClosed
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.pages.forms import described_forms, described_stream
from forwarder.operator.pages.jobs import JOBS_KEPT_MAX
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.routes import make_page
from forwarder.ports import AuditRow
from forwarder.telemetry.rates import Rates

HOSTILE = "<script>alert(1)</script>"


async def test_settings_show_their_source_and_no_secret(start: Any) -> None:
    """What was set stands apart from the defaults, with its source; of a secret only that it is set."""
    page = await (await start()).get("/settings")
    given, _, defaults = page.words.partition("Set by you")[2].partition("Defaults")
    assert "FORWARDER_LISTEN 0.0.0.0:8080 environment" in given
    assert "COURIER_API_KEY •••••• (set) .env" in given
    assert "FORWARDER_INBOUND_MODE direct default" in defaults


async def test_checks_are_shown_quick_ones_first(start: Any) -> None:
    """Every look runs the quick checks; reading the whole spool has to be asked for."""
    desk = await start()
    page = await desk.get("/settings")
    assert "✓ ok settings routes: both" in page.words
    assert "! warn data folder others may enter <it>" in page.words
    assert "✕ fail clock it says 1970" in page.words
    assert "without reading the whole spool" in page.words
    page = await desk.post("/settings/check")
    assert page.status == 200
    assert "without reading the whole spool" not in page.words
    assert desk.checked.asked == [False, True]


async def test_one_thorough_check_at_a_time(start: Any) -> None:
    """While the whole spool is read for somebody, somebody else is told to wait."""
    desk = await start()
    desk.checked.may_go.clear()
    first = asyncio.create_task(desk.post("/settings/check"))
    async with asyncio.timeout(5):
        while True not in desk.checked.asked:
            await desk.get("/audit")
    second = await desk.post("/settings/check")
    assert (second.status, "under way already" in second.words) == (400, True)
    desk.checked.may_go.set()
    assert (await first).status == 200


async def test_another_origin_cannot_start_a_check(start: Any) -> None:
    """Reading the whole spool is not to be started by another site."""
    desk = await start()
    assert (await desk.post("/settings/check", Origin="https://evil.example")).status == 403
    assert desk.checked.asked == []


async def test_the_audit_log_is_shown_newest_first(start: Any) -> None:
    """Who, when, what, in detail; text only; more on demand."""
    desk = await start()
    assert "Nothing was changed yet" in (await desk.get("/audit")).words
    for number in range(60):
        row = AuditRow(at_ms=desk.clock.wall_ms(), who=HOSTILE, action="replay", detail=f"detail {number};")
        await desk.spool.write_audit(row)
    page = await desk.get("/audit")
    assert HOSTILE in page.words
    assert page.words.index("detail 59;") < page.words.index("detail 10;")
    assert "detail 9;" not in page.words
    assert "detail 9;" in (await desk.get("/audit?limit=500")).words
    assert (await desk.get("/audit?limit=x")).status == 400


async def test_a_job_that_fails_says_so(start: Any) -> None:
    """What ends a job early is told on its page; a bug of ours is told without its words."""

    async def closing() -> AsyncIterator[int]:
        yield 3
        raise SpoolClosed("the spool is closed")

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise RuntimeError("holds a payload")

    desk = await start()
    for steps, told in ((closing(), "the spool is closed"), (broken(), "its log names the place")):
        job = desk.jobs.start(steps, title="Replaying", did="replayed", back="/dead-letters", total=9)
        while job.ended_at_ms is None:
            await desk.get("/audit")
        page = await desk.get(job.path)
        assert told in page.words.partition("Stopped: ")[2]
        assert "holds a payload" not in page.html
    assert [line["event"] for line in desk.log if line["event"] == "operator.failed"] == ["operator.failed"]


async def test_old_jobs_are_forgotten(start: Any) -> None:
    """A few ended jobs are kept; of one that is forgotten the page says so."""

    async def nothing() -> AsyncIterator[int]:
        yield 0

    desk = await start()
    first = None
    for _ in range(JOBS_KEPT_MAX + 1):
        job = desk.jobs.start(nothing(), title="t", did="replayed", back="/", total=0)
        first = first or job
        while job.ended_at_ms is None:
            await desk.get("/audit")
    assert first is not None
    page = await desk.get(first.path)
    assert (page.status, "no longer known" in page.words) == (404, True)


async def test_every_form_is_described(start: Any) -> None:
    """The OpenAPI document describes every post that the page has, and no other."""
    desk = await start()
    async with desk.http.get("/api/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    operator = desk.operator
    shown, _ = make_page(
        operator,
        Renderer(clock=desk.clock, version="1"),
        Rates(metrics=operator.metrics, clock=desk.clock),
        guard=OperatorGuard(token=None, own_hosts=frozenset()),
    )
    posts = {route.path for route in (*desk.routes, *shown) if route.method == "POST"}
    assert posts == set(described_forms())
    programs = {route.path for route in shown if route.path.startswith("/api/")}
    assert programs == set(described_stream())
    assert posts <= {path for path, methods in paths.items() if "post" in methods}


@pytest.mark.parametrize("path", sorted(described_forms()))
async def test_no_form_takes_orders_from_elsewhere(start: Any, path: str) -> None:
    """Every post of the page is refused when another site sends it."""
    desk = await start()
    url = path.replace("{sequence}", "1").replace("{route}", "courier_to_rudderstack")
    assert (await desk.post(url, {"confirmed": "1"}, **{"Sec-Fetch-Site": "same-site"})).status == 403
