"""Put a route together from its parts. The one place that knows which parts make which route."""

from collections.abc import Callable

from forwarder.flow.backoff import Backoff
from forwarder.flow.calls import CallDelivery
from forwarder.flow.carrier import Carrier
from forwarder.flow.concurrency import ConcurrencyLimit
from forwarder.flow.delivery import BatchDelivery, DeliveryLimits
from forwarder.flow.families import Families
from forwarder.flow.gate import PROBE_EVERY_S, Gate
from forwarder.flow.guarded import GuardedSink
from forwarder.flow.route import Route
from forwarder.flow.settlement import Settlement
from forwarder.model import RouteName
from forwarder.ports import Clock, Mapper, Sink, Spool
from forwarder.telemetry.reporter import Reporter


def batch_route(
    name: RouteName,
    *,
    spool: Spool,
    mapper: Mapper,
    sink: Sink,
    limits: DeliveryLimits,
    concurrency_max: int,
    reporter: Reporter,
    clock: Clock,
    rng: Callable[[], float],
    backoff: Backoff | None = None,
    probe_every_s: float = PROBE_EVERY_S,
) -> Route:
    """Make a route that delivers in batches, without order; `rng` gives numbers in [0, 1)."""
    backoff = backoff or Backoff()
    gate = Gate(backoff=backoff, rng=rng, probe_every_s=probe_every_s)
    delivery = BatchDelivery(
        route=name,
        mapper=mapper,
        sink=GuardedSink(sink, clock=clock),
        settlement=Settlement(route=name, spool=spool, reporter=reporter, clock=clock),
        limits=limits,
        concurrency=ConcurrencyLimit(initial=1, floor=1, ceiling=concurrency_max),
        gate=gate,
        backoff=backoff,
        reporter=reporter,
        clock=clock,
        rng=rng,
    )
    return Route(name=name, spool=spool, delivery=delivery, gate=gate, reporter=reporter, clock=clock)


def call_route(
    name: RouteName,
    *,
    spool: Spool,
    mapper: Mapper,
    sink: Sink,
    concurrency_max: int,
    reporter: Reporter,
    clock: Clock,
    rng: Callable[[], float],
    backoff: Backoff | None = None,
    probe_every_s: float = PROBE_EVERY_S,
) -> Route:
    """Make a route that delivers call by call, in order per user; `rng` gives numbers in [0, 1)."""
    backoff = backoff or Backoff()

    def make_gate() -> Gate:
        return Gate(backoff=backoff, rng=rng, probe_every_s=probe_every_s)

    gate = make_gate()
    settlement = Settlement(route=name, spool=spool, reporter=reporter, clock=clock)
    concurrency = ConcurrencyLimit(initial=8, floor=4, ceiling=concurrency_max)
    families = Families(route=name, gate=gate, make_gate=make_gate, reporter=reporter, clock=clock, rng=rng)
    carrier = Carrier(
        route=name,
        sink=GuardedSink(sink, clock=clock),
        settlement=settlement,
        concurrency=concurrency,
        families=families,
        backoff=backoff,
        reporter=reporter,
        clock=clock,
        rng=rng,
    )
    delivery = CallDelivery(
        route=name,
        mapper=mapper,
        carrier=carrier,
        settlement=settlement,
        concurrency=concurrency,
        families=families,
        reporter=reporter,
    )
    return Route(name=name, spool=spool, delivery=delivery, gate=gate, reporter=reporter, clock=clock)
