"""Put a route together from its parts. The one place that knows which parts make which route."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from forwarder.delivery.backoff import Backoff
from forwarder.delivery.breakers import Breakers
from forwarder.delivery.circuit import PROBE_EVERY_S, CircuitBreaker
from forwarder.delivery.concurrency import ConcurrencyLimit
from forwarder.delivery.dispatch import Dispatcher
from forwarder.delivery.history import History
from forwarder.delivery.intake import RequestLimits
from forwarder.delivery.loop import Loop
from forwarder.delivery.policy import OutcomePolicy
from forwarder.delivery.route import Route
from forwarder.delivery.sending import Exchanges
from forwarder.delivery.settling import Settling
from forwarder.model import RouteName
from forwarder.ports import BatchMapper, Clock, Sink, Spool
from forwarder.telemetry.reporter import Reporter

_BACKOFF: Final = Backoff()
_REPLAY_CALLS_MAX: Final = 2
_REPLAY_BATCHES_MAX: Final = 1


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
    backoff: Backoff = _BACKOFF,
    probe_every_s: float = PROBE_EVERY_S,
) -> Route:
    """Make a route, by planned calls or by batches as its limits say; `rng` gives numbers in [0, 1)."""

    def loop(limits: RequestLimits, concurrency: ConcurrencyLimit, live: Breakers | None = None) -> Loop:
        breakers = Breakers(
            route=name,
            make=partial(CircuitBreaker, backoff=backoff, rng=rng, probe_every_s=probe_every_s),
            reporter=reporter,
            clock=clock,
            rng=rng,
            live=live,
        )
        # Replays that are refused are known to be refused: they hold nobody.
        history = History(counts_refusals=not limits.is_planned and live is None, forgives_lone_holds=limits.is_planned)
        exchanges = Exchanges(
            route=name,
            sink=sink,
            history=history,
            policy=OutcomePolicy(backoff=backoff, rng=rng),
            breakers=breakers,
            concurrency=concurrency,
            limits=limits,
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
        waits_for = None if live is None else live.route
        return Loop(route=name, spool=spool, dispatcher=dispatcher, clock=clock, live=waits_for)

    start, floor = (8, 4) if limits.is_planned else (1, 1)
    live = loop(limits, ConcurrencyLimit(initial=start, floor=floor, ceiling=concurrency_max))
    few = _REPLAY_CALLS_MAX if limits.is_planned else _REPLAY_BATCHES_MAX
    concurrency = ConcurrencyLimit(initial=few, floor=few, ceiling=few)
    replays = loop(replace(limits, are_replays=True), concurrency, live.dispatcher.breakers)
    return Route(name=name, spool=spool, live=live, replays=replays, reporter=reporter, clock=clock)
