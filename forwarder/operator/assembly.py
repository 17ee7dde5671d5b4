"""Assemble the operator's listener: metrics, API, page, login, and what samples and streams for the page.

Deliberately absent: the daemon's other parts (`app`), which are handed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from forwarder import __version__
from forwarder.mapping.link_store import LinkStore
from forwarder.model import RouteName
from forwarder.operator.api import api_routes
from forwarder.operator.api_links import link_routes
from forwarder.operator.checks import LocalCheck
from forwarder.operator.desk import OperatedRoute, OperatorDesk
from forwarder.operator.explain import Explain, TimeOf
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.listener import OperatorListener, operator_app
from forwarder.operator.pages.acting import Acting
from forwarder.operator.pages.forms import described_forms, described_stream
from forwarder.operator.pages.jobs import Jobs
from forwarder.operator.pages.login import PUBLIC_PATHS, to_login
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.routes import make_page
from forwarder.operator.sessions import Sessions
from forwarder.ports import Clock, Worker
from forwarder.settings import Settings
from forwarder.spool.sqlite import SqliteSpool
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.rates import Rates
from forwarder.telemetry.reporter import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorParts:
    """The daemon's parts that the operator sees and moves. `routes` are those that run."""

    spool: SqliteSpool
    metrics: Metrics
    reporter: Reporter
    clock: Clock
    routes: Sequence[OperatedRoute]
    links: LinkStore
    explain: Mapping[RouteName, Explain]
    time_of: Mapping[RouteName, TimeOf]


def operator_workers(settings: Settings, parts: OperatorParts) -> Sequence[Worker]:
    """Return the listener, the stream behind its page, and the sampler of rates; the daemon must run all three."""
    desk = _desk(settings, parts)
    token = settings.operator_token.get_secret_value() if settings.operator_token else None
    sessions = Sessions(clock=parts.clock)
    guard = OperatorGuard(
        token=token,
        own_hosts=frozenset({settings.operator_listen.host.casefold()}),
        sessions=sessions,
        public_paths=PUBLIC_PATHS,
    )
    render = Renderer(clock=parts.clock, version=__version__, can_log_out=guard.has_token)
    rates = Rates(metrics=parts.metrics, clock=parts.clock)
    page, stream = make_page(desk, render, rates, guard=guard)
    jobs = Jobs(clock=parts.clock, reporter=parts.reporter)
    acting = Acting(
        desk=desk, render=render, jobs=jobs, sessions=sessions, guard=guard, check=LocalCheck(settings, parts.clock)
    )
    described = described_forms() | described_stream()
    app = operator_app(
        (*api_routes(desk, also_described=described), *link_routes(desk), *page, *acting.routes()),
        guard=guard,
        reporter=parts.reporter,
        clock=parts.clock,
        denied=to_login,
    )
    app.on_shutdown.append(lambda _: jobs.close())
    listener = OperatorListener(app, host=settings.operator_listen.host, port=settings.operator_listen.port)
    return listener, stream, rates


def _desk(settings: Settings, parts: OperatorParts) -> OperatorDesk:
    return OperatorDesk(
        archive=parts.spool,
        spool=parts.spool,
        routes=parts.routes,
        metrics=parts.metrics,
        reporter=parts.reporter,
        clock=parts.clock,
        version=__version__,
        started_at_ms=parts.clock.wall_ms(),
        settings_rows=[asdict(row) for row in settings.rows()],
        links=parts.links,
        explain=parts.explain,
        time_of=parts.time_of,
    )
