"""Settings, checks, audit, the progress of jobs, and the description of every form."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from forwarder.archive_port import AuditRow, EventQuery
from forwarder.errors import SpoolClosed
from forwarder.model import State
from forwarder.operator.pages.bulk import JOBS_KEPT_MAX, Job

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


@pytest.mark.one_daemon("one at a time in each process")
async def test_one_thorough_check_at_a_time(start: Any) -> None:
    """While the whole spool is read for somebody, somebody else is told to wait."""
    desk = await start()
    desk.checked.may_go.clear()
    first = asyncio.create_task(desk.post("/settings/check"))
    async with asyncio.timeout(60):
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
    desk = await start()
    await desk.put({"n": 1}, State.DEAD, "a")

    async def closed(_: Sequence[int]) -> int:
        raise SpoolClosed("the spool is closed")

    async def broken(_: Sequence[int]) -> int:
        raise RuntimeError("holds a payload")

    for act, told in ((closed, "the spool is closed"), (broken, "its log names the place")):
        job = desk.jobs.start(_job(9), EventQuery(state=State.DEAD), act)
        page = await _ended(desk, job)
        assert told in page.words.partition("Stopped: ")[2]
        assert "holds a payload" not in page.html
    assert [line["event"] for line in desk.log if line["event"] == "operator.failed"] == ["operator.failed"]


async def test_old_jobs_are_forgotten(start: Any) -> None:
    """A few ended jobs are kept; of one that is forgotten the page says so."""

    async def nothing(sequences: Sequence[int]) -> int:
        return len(sequences)

    desk = await start()
    jobs = []
    for _ in range(JOBS_KEPT_MAX + 1):
        jobs.append(desk.jobs.start(_job(0), EventQuery(state=State.DEAD), nothing))
        await _ended(desk, jobs[-1])
    page = await desk.get(jobs[0].path)
    assert (page.status, "not known here" in page.words) == (404, True)


def _job(total: int) -> Job:
    return Job(title="Replaying", did="replayed", back="/dead-letters", total=total, started_at_ms=0)


async def _ended(desk: Any, job: Job) -> Any:
    while job.ended_at_ms is None:
        await desk.get("/audit")
    return await desk.get(job.path)


async def test_every_form_is_described(start: Any) -> None:
    """The OpenAPI document describes every post that the pages have, and no page that people only read."""
    desk = await start()
    paths = (await desk.api("/api/openapi.json"))["paths"]
    posts = {one.path for one in desk.operations if one.method == "POST"}
    assert posts == {path for path, methods in paths.items() if "post" in methods}
    assert {path for path, methods in paths.items() if "get" in methods} == {
        one.path for one in desk.operations if one.method == "GET" and one.is_described
    } | {"/api/openapi.json"}
    assert paths["/events/{sequence}/replay"]["post"]["requestBody"]["content"].keys() == {
        "application/x-www-form-urlencoded"
    }


async def test_no_form_takes_orders_from_elsewhere(start: Any) -> None:
    """Every post of the pages is refused when another site sends it."""
    desk = await start()
    for path in [one.path for one in desk.operations if one.method == "POST"]:
        url = path.replace("{sequence}", "1").replace("{route}", "courier_to_rudderstack")
        page = await desk.post(url, {"confirmed": "1"}, **{"Sec-Fetch-Site": "same-site"})
        assert page.status == 403, path
