"""Assemble the operator's listener: metrics, API, pages and login, and the sampler of rates behind them."""

from collections.abc import Callable, Sequence

from aiohttp import web

from forwarder.operator.acts import Acts
from forwarder.operator.api import Api, described
from forwarder.operator.checks import LocalCheck
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.incidents.alerting import Alerting, channels_of
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.pages.bulk import Jobs
from forwarder.operator.pages.login import PUBLIC_PATHS
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.site import Site, static_routes
from forwarder.operator.parts import Parts
from forwarder.operator.serving import OperatorListener, operator_app
from forwarder.operator.sessions import Sessions
from forwarder.ports import Transport, Worker
from forwarder.settings import Settings
from forwarder.telemetry.rates import Rates


def operator_workers(
    settings: Settings, parts: Parts, *, transport: Transport, swaps: list[Callable[[Settings], None]]
) -> Sequence[Worker]:
    """Return the listener and what watches and alerts beside it; the daemon must run all.

    Adds to `swaps` who takes new secrets.
    """
    token = settings.operator_token.get_secret_value() if settings.operator_token else None
    sessions = Sessions(clock=parts.clock)
    guard = OperatorGuard(
        token=token,
        own_hosts=frozenset({settings.operator_listen.host.casefold()}),
        sessions=sessions,
        public_paths=PUBLIC_PATHS,
    )

    def take_token(new: Settings) -> None:
        if new.operator_token is not None and not guard.token_matches(new.operator_token.get_secret_value()):
            guard.replace_token(new.operator_token.get_secret_value())
            sessions.close_all()  # who knew the old token alone is out

    swaps.append(take_token)
    acts, rates = Acts(parts=parts), Rates(metrics=parts.metrics, clock=parts.clock)
    incidents = Incidents(parts)
    jobs = Jobs(parts)
    site = Site(
        acts=acts,
        render=Renderer(parts, can_log_out=guard.has_token),
        jobs=jobs,
        rates=rates,
        incidents=incidents,
        guard=guard,
        sessions=sessions,
        check=LocalCheck(settings, parts.clock),
    )
    operations = (*Api(acts=acts, incidents=incidents).operations(), *site.operations())
    routes = [one.route() for one in (*operations, described(operations))]
    app = operator_app((*static_routes(), *routes), guard=guard, parts=parts, told=site.told)
    app.on_shutdown.append(lambda _: jobs.close())
    listener = OperatorListener(app, host=settings.operator_listen.host, port=settings.operator_listen.port)
    channels, take_alert_secrets = channels_of(settings, transport, parts.clock)
    swaps.append(take_alert_secrets)
    alerting = Alerting(channels, incidents, reporter=parts.reporter, clock=parts.clock)
    return listener, rates, incidents, alerting


def api_alone(parts: Parts, *, token: str | None = None) -> web.Application:
    """Return the API without pages, for what is no daemon."""
    guard = OperatorGuard(token=token, own_hosts=frozenset())
    incidents = Incidents(parts)
    routes = [one.route() for one in Api(acts=Acts(parts=parts), incidents=incidents).operations()]
    app = operator_app(routes, guard=guard, parts=parts)
    app.on_startup.append(lambda _: incidents.load())
    return app
