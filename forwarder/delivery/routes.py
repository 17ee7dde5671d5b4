"""Put a route together from its parts. The one place that knows which parts make which route."""

from collections.abc import Callable
from functools import partial

from forwarder.delivery.backoff import Backoff
from forwarder.delivery.breakers import Breakers
from forwarder.delivery.circuit import PROBE_EVERY_S, CircuitBreaker
from forwarder.delivery.concurrency import ConcurrencyLimit
from forwarder.delivery.dispatch import Dispatcher
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.policy import OutcomePolicy
from forwarder.delivery.route import Route
from forwarder.delivery.sending import Exchanges
from forwarder.delivery.settling import Settling
from forwarder.model import RouteName
from forwarder.ports import BatchMapper, Clock, Sink, Spool
from forwarder.telemetry.reporter import Reporter


def make_route(
    name: RouteName,
    *,
    spool: Spool,
    mapper: BatchMapper,
    sink: Sink,
    limits: RequestLimits,
    concurrency_max: int,
    reporter: Reporter,
    clock: Clock,
    rng: Callable[[], float],
    backoff: Backoff | None = None,
    probe_every_s: float = PROBE_EVERY_S,
) -> Route:
    """Make a route; `rng` gives numbers in [0, 1).

    One whose limits say `is_planned` makes the calls of each event one after the other; any other sends batches,
    without order.
    """
    backoff = backoff or Backoff()
    breakers = Breakers(
        route=name,
        make=partial(CircuitBreaker, backoff=backoff, rng=rng, probe_every_s=probe_every_s),
        reporter=reporter,
        clock=clock,
        rng=rng,
    )
    start, floor = (8, 4) if limits.is_planned else (1, 1)
    history = History(counts_refusals=not limits.is_planned, forgives_lone_holds=limits.is_planned)
    exchanges = Exchanges(
        route=name,
        sink=sink,
        history=history,
        policy=OutcomePolicy(backoff=backoff, rng=rng),
        breakers=breakers,
        concurrency=ConcurrencyLimit(initial=start, floor=floor, ceiling=concurrency_max),
        is_planned=limits.is_planned,
        reporter=reporter,
        clock=clock,
    )
    dispatcher = Dispatcher(
        route=name,
        settling=Settling(route=name, spool=spool, reporter=reporter, clock=clock),
        mapper=mapper,
        exchanges=exchanges,
        limits=limits,
        history=history,
        breakers=breakers,
        clock=clock,
    )
    return Route(name=name, spool=spool, dispatcher=dispatcher, reporter=reporter, clock=clock)
