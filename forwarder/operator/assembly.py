"""Assemble the operator's listener: metrics, API, pages and login, and the sampler of rates behind them."""

from collections.abc import Sequence

from aiohttp import web

from forwarder.courier.catalogue import Catalogue
from forwarder.model import RouteName
from forwarder.operator.acts import Acts
from forwarder.operator.api import Api, described
from forwarder.operator.checks import LocalCheck
from forwarder.operator.guard import OperatorGuard
from forwarder.operator.incidents.alerting import Alerting, channels_of, instance_of
from forwarder.operator.incidents.keeper import Incidents
from forwarder.operator.pages.bulk import Jobs
from forwarder.operator.pages.login import PUBLIC_PATHS
from forwarder.operator.pages.render import Renderer
from forwarder.operator.pages.site import Site, static_routes
from forwarder.operator.parts import Parts
from forwarder.operator.people import People
from forwarder.operator.searching import Searches
from forwarder.operator.serving import OperatorListener, operator_app
from forwarder.ports import Transport, Worker
from forwarder.settings import Settings
from forwarder.settings.rotation import Swaps, courier_client
from forwarder.settings.values import revealed
from forwarder.telemetry.rates import Rates


def operator_workers(settings: Settings, parts: Parts, *, transport: Transport, swaps: Swaps) -> Sequence[Worker]:
    """Return the listener and what watches and alerts beside it; the daemon must run all.

    Adds to `swaps` who takes new secrets.
    """
    people = People(clock=parts.clock, memory=parts.spool)

    def take_tokens(new: Settings) -> None:
        people.replace_tokens(revealed(new.operator_token) or None, new.named_tokens())

    take_tokens(settings)
    swaps.append(take_tokens)
    guard = OperatorGuard(
        people=people,
        own_hosts=frozenset({settings.operator_listen.host.casefold()}),
        user_header=settings.operator_user_header,
        public_paths=PUBLIC_PATHS,
    )
    catalogue = _catalogue(settings, parts, transport, swaps)
    acts, rates = Acts(parts=parts, catalogue=catalogue), Rates(metrics=parts.metrics, clock=parts.clock)
    incidents = Incidents(parts)
    jobs, searches = Jobs(parts), Searches(parts)
    site = Site(
        acts=acts,
        render=Renderer(parts),
        jobs=jobs,
        searches=searches,
        rates=rates,
        incidents=incidents,
        guard=guard,
        people=people,
        check=LocalCheck(settings, parts.clock),
    )
    operations = (*Api(acts=acts, incidents=incidents).operations(), *site.operations())
    routes = [one.route() for one in (*operations, described(operations))]
    app = operator_app((*static_routes(), *routes), guard=guard, parts=parts, told=site.told)
    app.on_shutdown.extend((lambda _: jobs.close(), lambda _: searches.close(), lambda _: catalogue.close()))
    app.on_cleanup.append(lambda _: acts.close())
    host, port = settings.operator_listen.host, settings.operator_listen.port
    on_start = parts.reporter.operator_started
    listener = OperatorListener(app, host=host, port=port, on_start=lambda url: on_start(url=url))
    channels = channels_of(settings, transport, parts.clock, swaps)
    alerting = Alerting(channels, incidents, instance=instance_of(settings), reporter=parts.reporter, clock=parts.clock)
    return listener, rates, incidents, alerting


def api_alone(parts: Parts, *, people: People | None = None) -> web.Application:
    """Return the API without pages, for what is no daemon; without `people` nobody is asked who he is."""
    guard = OperatorGuard(people=people or People(clock=parts.clock), own_hosts=frozenset())
    incidents = Incidents(parts)
    acts = Acts(parts=parts, catalogue=Catalogue(None, parts.clock))
    routes = [one.route() for one in Api(acts=acts, incidents=incidents).operations()]
    app = operator_app(routes, guard=guard, parts=parts)
    app.on_cleanup.append(lambda _: acts.close())
    app.on_startup.append(lambda _: incidents.load())
    return app


def _catalogue(settings: Settings, parts: Parts, transport: Transport, swaps: Swaps) -> Catalogue:
    if settings.courier_api_key is None or RouteName.RUDDERSTACK_TO_COURIER not in settings.routes:
        return Catalogue(None, parts.clock)
    return Catalogue(courier_client(settings, transport, parts.clock, swaps), parts.clock)
