"""Assemble the daemon from its parts: the one place that knows every part. It decides nothing else."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field

from forwarder.clock import SystemClock
from forwarder.courier.client import CourierClient
from forwarder.courier.sink import CourierSink
from forwarder.courier.tenant_order import TenantOrder
from forwarder.daemon import Daemon, signals_heard
from forwarder.delivery.flights import BatchLimits
from forwarder.delivery.intake import ONE_BY_ONE, RequestLimits
from forwarder.delivery.route import Route, make_route
from forwarder.engine import Fence, OpenSpool, open_spool
from forwarder.errors import ForwarderError, SpoolAway
from forwarder.ingress.admission import EndpointSettings
from forwarder.ingress.listener import PublicListener
from forwarder.ingress.receiver import Receiver
from forwarder.ingress.routing import Health
from forwarder.ingress.shared import ListenerLimits
from forwarder.mapping.link_store import LinkStore
from forwarder.mapping.outbound import OutboundMapping
from forwarder.mapping.rudderstack_to_courier import RudderstackToCourier
from forwarder.model import RouteName
from forwarder.operator.assembly import operator_workers
from forwarder.operator.explain import Explain, PastMappings, explainer
from forwarder.operator.parts import Parts
from forwarder.ports import Probeable, Transport, Worker
from forwarder.rudderstack.sink import REQUEST_BYTES_MAX, RudderstackSink, WriteKey, framing_bytes
from forwarder.settings import Settings
from forwarder.settings.data_volume import start_doubts
from forwarder.settings.otel import open_tracing
from forwarder.settings.rotation import Swaps, courier_client, rotation
from forwarder.settings.toml_files import read_links, read_mapping
from forwarder.settings.values import revealed
from forwarder.sources.configured import source_workers
from forwarder.sources.worker import SourceWorker
from forwarder.telemetry.foreign import begin_logs
from forwarder.telemetry.logs import RepeatSummaries
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.notify import notifier
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing
from forwarder.transport import AiohttpTransport

WATCHED_WITHIN_S = 30.0
_EXIT_GRACE_S = 5.0  # from the end of the drain to the end of the process


async def run(settings: Settings) -> int:
    """Run the daemon until SIGTERM, SIGINT or SIGQUIT, then drain; return the exit code.

    Raises `SettingsInvalid` and `RulesInvalid` for what is set wrong, other `ForwarderError`s for what
    keeps it from starting.
    """
    with signals_heard(exit_within_s=settings.drain_max_s + _EXIT_GRACE_S) as heard:
        await run_until(settings, heard.stop, hangup=heard.hangup)
    return 0


async def run_until(settings: Settings, stop: asyncio.Event, *, hangup: asyncio.Event | None = None) -> None:
    """Run until `stop` is set, then drain within `FORWARDER_DRAIN_MAX_S`; `hangup` has the secrets read again."""
    while True:
        async with AsyncExitStack() as stack:
            try:
                daemon = await assemble(settings, stack, stop=stop, hangup=hangup or asyncio.Event())
            except SpoolAway as error:
                if stop.is_set():  # asked while it waited for the database
                    return
                if error.is_lasting:
                    raise
                continue  # it went away again since it was opened: it is waited for there
            await daemon.run(stop)
            return


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What every part stands on."""

    clock: SystemClock
    metrics: Metrics
    reporter: Reporter
    spool: OpenSpool
    transport: AiohttpTransport
    tracing: Tracing | None
    swaps: Swaps = field(default_factory=list)  # what takes secrets that were replaced

    def vendor_transport(self) -> Transport:
        """Return what deliveries go by."""
        return self.transport if self.tracing is None else self.tracing.transport(self.transport)


async def assemble(settings: Settings, stack: AsyncExitStack, *, stop: asyncio.Event, hangup: asyncio.Event) -> Daemon:
    """Put the daemon together; what it opens is closed by `stack`, the spool last.

    listener, sources → spool → routes → destinations, and the operator beside them
    """
    mapping = read_mapping(settings)
    link_file = read_links(settings)
    clock = SystemClock()
    metrics = Metrics()
    logs = begin_logs(stack, settings.log_format, settings.log_level, metrics=metrics, clock=clock)
    reporter = Reporter(metrics, logs.logger)
    for doubt in start_doubts(settings):
        reporter.setting_doubtful(doubt)
    tracing = open_tracing(settings.reading.tracing, stack)
    spool = await open_spool(settings, clock=clock, reporter=reporter, stop=stop)
    stack.push_async_callback(spool.close)
    stack.push_async_callback(tell_what_waits, spool, reporter)
    http = await stack.enter_async_context(AiohttpTransport(clock=clock, proxy_for=settings.reading.proxies.url_for))
    base = Foundation(clock=clock, metrics=metrics, reporter=reporter, spool=spool, transport=http, tracing=tracing)
    links = await LinkStore.load(spool, link_file)
    routes: list[Route] = []
    if RouteName.COURIER_TO_RUDDERSTACK in settings.routes:
        routes.append(outbound_route(settings, base, mapping))
    if RouteName.RUDDERSTACK_TO_COURIER in settings.routes:
        routes.append(inbound_route(settings, base, links))
    probes: tuple[Probeable, ...] = (spool, *routes)
    receiver = Receiver(endpoint_settings(settings), clock=clock, reporter=reporter)
    base.swaps.append(lambda new: receiver.set_up(endpoint_settings(new)))
    listener = PublicListener(
        addresses=[(address.host, address.port) for address in settings.listen],
        receiver=receiver,
        health=Health(clock=clock, probes=probes),
        spool=spool,
        reporter=reporter,
        limits=ListenerLimits(idle_max_s=settings.idle_max_s, is_proxied=settings.proxy_protocol),
        public_url=settings.public_url or "",
        tracing=tracing,
    )
    sources = source_workers(settings, spool=spool, clock=clock, reporter=reporter, swaps=base.swaps, tracing=tracing)
    helpers = (
        *(await operator(settings, base, routes, sources, mapping=mapping, links=links)),
        RepeatSummaries(logs),
        *rotation(settings, base.swaps, asked=hangup, reporter=reporter),
    )
    return Daemon(
        stages=((listener, *sources), routes, helpers, (spool,)),
        probes=probes,
        notifier=notifier(os.environ, pid=os.getpid()),
        reporter=reporter,
        clock=clock,
        drain_max_s=settings.drain_max_s,
        status=lambda: "; ".join(f"{route.name}: {route.status().state}" for route in routes),
        alive_within_s=WATCHED_WITHIN_S,
    )


async def tell_what_waits(spool: OpenSpool, reporter: Reporter) -> None:
    """Tell how many events wait for the next start."""
    with suppress(ForwarderError):
        reporter.daemon_stopped(pending={route: one.pending for route, one in (await spool.facts()).totals.items()})


def outbound_route(settings: Settings, base: Foundation, mapping: OutboundMapping) -> Route:
    """Make the route Courier → RudderStack."""
    write_key = WriteKey(revealed(settings.rudderstack_write_key))
    base.swaps.append(lambda new: write_key.replace(revealed(new.rudderstack_write_key)))
    return make_route(
        RouteName.COURIER_TO_RUDDERSTACK,
        spool=base.spool,
        mapper=mapping.mapper(),
        sink=RudderstackSink(
            transport=Fence(base.vendor_transport(), base.spool.may_send),
            url=settings.rudderstack_data_plane_url or "",  # settings.together saw to it
            write_key=write_key,
            clock=base.clock,
            mapping=mapping.mark,
        ),
        limits=request_limits(settings),
        concurrency_max=settings.concurrency_max,
        reporter=base.reporter,
        clock=base.clock,
        rng=random.random,
        tracing=base.tracing,
    )


def inbound_route(settings: Settings, base: Foundation, links: LinkStore) -> Route:
    """Make the route RudderStack / Segment → Courier."""
    transport = Fence(base.vendor_transport(), base.spool.may_send)
    client = courier_client(settings, transport, base.clock, base.swaps)
    return make_route(
        RouteName.RUDDERSTACK_TO_COURIER,
        spool=base.spool,
        mapper=inbound_mapper(settings, links, base.reporter.loop_stopped),
        sink=CourierSink(client, TenantOrder(base.spool), clock=base.clock),
        limits=ONE_BY_ONE,
        concurrency_max=settings.concurrency_max,
        reporter=base.reporter,
        clock=base.clock,
        rng=random.random,
        tracing=base.tracing,
    )


def inbound_mapper(
    settings: Settings, links: LinkStore, on_loop: Callable[[str], None] = lambda _: None
) -> RudderstackToCourier:
    """Return what maps calls; it sees every change of the links at once."""
    is_relay = settings.inbound_mode == "relay"
    return RudderstackToCourier.of(links.table.links, links.table.file, is_relay=is_relay, on_loop=on_loop)


async def explainers(
    settings: Settings, base: Foundation, mapping: OutboundMapping, links: LinkStore
) -> tuple[dict[RouteName, Explain], PastMappings | None]:
    """Return what tells people how an event is mapped and sent, for each route that runs; no secret is in reach."""
    made: dict[RouteName, Explain] = {}
    past = None
    if RouteName.COURIER_TO_RUDDERSTACK in settings.routes:
        url = settings.rudderstack_data_plane_url or ""
        sink = RudderstackSink(transport=base.transport, url=url, write_key=WriteKey(""), clock=base.clock)

        def explain_with(one: OutboundMapping) -> Explain:
            return explainer(one.mapper(), lambda delivery: sink.request(delivery.body, is_packed=True))

        made[RouteName.COURIER_TO_RUDDERSTACK] = explain_with(mapping)
        past = await PastMappings.load(base.spool, mapping, explain_with)
    if RouteName.RUDDERSTACK_TO_COURIER in settings.routes:
        client = CourierClient(base.transport, base_url=settings.courier_api_url, api_key="", clock=base.clock)
        made[RouteName.RUDDERSTACK_TO_COURIER] = explainer(
            inbound_mapper(settings, links),
            lambda one: client.request(one.operation, one.body, idempotency_key=one.idempotency_key),
        )
    return made, past


async def operator(
    settings: Settings,
    base: Foundation,
    routes: Sequence[Route],
    sources: Sequence[SourceWorker],
    *,
    mapping: OutboundMapping,
    links: LinkStore,
) -> Sequence[Worker]:
    """Make the operator's listener and what samples rates for its pages."""
    explain, past = await explainers(settings, base, mapping, links)
    return operator_workers(
        settings,
        Parts(
            archive=base.spool,
            spool=base.spool,
            metrics=base.metrics,
            reporter=base.reporter,
            clock=base.clock,
            routes=routes,
            sources=sources,
            links=links,
            settings_rows=[asdict(row) for row in settings.rows()],
            explain=explain,
            past=past,
        ),
        transport=base.transport,
        swaps=base.swaps,
    )


def endpoint_settings(settings: Settings) -> EndpointSettings:
    """Return what the public endpoints need to know."""
    return EndpointSettings(
        routes=frozenset(settings.routes),
        webhook_secrets=[secret.get_secret_value() for secret in settings.courier_webhook_secrets],
        events_keys=[revealed(settings.events_key)] if settings.events_key else [],
        inbound_keys=[key.get_secret_value() for key in settings.inbound_keys],
        body_bytes_max=settings.body_bytes_max,
        signature_age_max_s=settings.signature_age_max_s,
        segment_signs_first=settings.segment_signature == "first",
    )


def request_limits(settings: Settings) -> RequestLimits:
    """Return what one request to the data plane may hold; the framing is subtracted here, once."""
    framing = framing_bytes(settings.batch_events_max)
    return RequestLimits(
        batch=BatchLimits(
            deliveries_max=settings.batch_events_max,
            bytes_max=max(1, settings.batch_bytes_max - framing),
            wait_max_s=settings.batch_wait_max_s,
        ),
        delivery_bytes_max=REQUEST_BYTES_MAX - framing_bytes(1),
    )
