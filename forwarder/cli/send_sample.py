"""`forwarder send-sample`: post a signed sample webhook to the running daemon, or publish one, and say what it means.

Every answer of the endpoint is explained with what to do next. Absent: the option parsing, which is the
command line's.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from forwarder.demo.signing import signed
from forwarder.demo.workflow import Workflow, WorkflowEvent
from forwarder.errors import SourceAway
from forwarder.settings import Settings
from forwarder.sources.port import Bus

TIMEOUT_S = 10.0  # Courier's own

_PROVES_NOTHING = (
    "It was signed with COURIER_WEBHOOK_SECRET as it is set here. That the same secret is in Courier's webhook is not "
    "proved: give --secret with what Courier shows, or send a message through Courier."
)
_REMEDIES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "The daemon has no secret for it, or something on the way took the signature off.",
    HTTPStatus.NOT_FOUND: "Nothing is served there: --url must name the public listener (FORWARDER_LISTEN).",
    HTTPStatus.TOO_MANY_REQUESTS: "The signature matches none of the daemon's secrets: give the right one "
    "with --secret, or compare COURIER_WEBHOOK_SECRET here and there.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The daemon cannot keep events now (starting, stopping, route off, or disk full): "
    "`forwarder status` says which.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What to post, where to, and where people can look afterwards."""

    url: str  # of the public listener, without a path
    secret: str
    is_secret_our_own: bool  # read from our settings, so that the daemon's yes proves nothing about Courier's
    status: str
    count: int
    page_url: str


def sample(
    settings: Settings, *, url: str | None, secret: str | None, status: str, count: int, is_signed: bool = True
) -> Sample:
    """Fill in what was not given from the settings. Raises `ValueError` when no secret is known for what is signed."""
    if not is_signed:
        secret = ""
    elif secret is None and not settings.courier_webhook_secrets:
        raise ValueError("no secret is known: set COURIER_WEBHOOK_SECRET as the daemon has it, or give --secret")
    return Sample(
        url=(url or settings.listen[0].url()).rstrip("/"),
        secret=secret if secret is not None else settings.courier_webhook_secrets[0].get_secret_value(),
        is_secret_our_own=secret is None,
        status=status.upper(),
        count=count,
        page_url=settings.operator_listen.url(),
    )


async def send_sample(wanted: Sample, say: Callable[[str], None]) -> int:
    """Post the samples one after the other; return 0 when all were taken, else 1."""
    workflow = Workflow(seed=secrets.randbits(64), users=1)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        for _ in range(wanted.count):
            event = workflow.sample(wanted.status, time.time_ns() // 1_000_000)
            if not await _post(http, wanted, event, say):
                return 1
    say("")
    say(_next(wanted, event))
    return 0


async def send_to_bus(bus: Bus, wanted: Sample, say: Callable[[str], None]) -> int:
    """Publish the samples where the daemon's source takes them from; return 0 when the bus has all of them, else 1."""
    workflow = Workflow(seed=secrets.randbits(64), users=1)
    try:
        for _ in range(wanted.count):
            event = workflow.sample(wanted.status, time.time_ns() // 1_000_000)
            say(f"{wanted.status}  →  {await bus.send(event.body)}")
    except SourceAway as error:
        say(f"It could not be published: {error}.")
        return 1
    finally:
        await bus.close()
    say("")
    say(f"It is on the bus; a daemon that runs takes it from there. {_becomes(wanted, event)}\n{_where(wanted)}")
    return 0


async def _post(http: aiohttp.ClientSession, wanted: Sample, event: WorkflowEvent, say: Callable[[str], None]) -> bool:
    headers = signed(event.body, wanted.secret, time.time_ns() // 1_000_000)
    url = f"{wanted.url}/webhooks/courier"
    started_s = time.perf_counter()
    try:
        async with http.post(url, data=event.body, headers=headers, allow_redirects=False) as response:
            answer = (await response.text()).strip()
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        say(f"{url} gave no answer ({type(error).__name__}).")
        say("Is the daemon running there? `forwarder run` starts it; --url names another address.")
        return False
    took_ms = (time.perf_counter() - started_s) * 1000
    say(f"POST {url}  {wanted.status}  →  {status} {answer}  ({took_ms:.0f} ms)")
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return True
    say(_REMEDIES.get(status, "That is no answer of this daemon: does --url lead to something else?"))
    return False


def _next(wanted: Sample, event: WorkflowEvent) -> str:
    proves = f"\n{_PROVES_NOTHING}" if wanted.is_secret_our_own else ""
    return f"It is on the daemon's disk. {_becomes(wanted, event)}{proves}\n{_where(wanted)}"


def _becomes(wanted: Sample, event: WorkflowEvent) -> str:
    facts = event.facts
    if facts.name is None:
        return f"Courier itself does not export {wanted.status}: unless FORWARDER_EVENTS names it, it ends filtered."
    return f'In RudderStack\'s live events it is "{facts.name}" of user {facts.user}.'


def _where(wanted: Sample) -> str:
    return f"Where it went: {wanted.page_url} or `forwarder events --follow`."
