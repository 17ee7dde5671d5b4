"""The buses that the settings name. A bus' package is imported only here, and only when it is configured."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from socket import gethostname
from types import ModuleType
from typing import Final

from forwarder.model import RouteName
from forwarder.ports import Clock, Spool
from forwarder.settings import Settings
from forwarder.settings.extras import module_of
from forwarder.settings.rotation import Swaps
from forwarder.settings.values import revealed
from forwarder.sources.port import Bus
from forwarder.sources.worker import SourceWorker
from forwarder.telemetry.reporter import Reporter
from forwarder.telemetry.tracing import Tracing

_PACKAGES: Final = {
    "nats": ("nats", "nacl"),
    "kafka": ("aiokafka",),
    "redis": ("redis",),
}  # what an extra of ours brings


@dataclass(frozen=True, slots=True)
class Configured:
    """A bus, what it is called, and what hands it secrets that were replaced."""

    name: str
    bus: Bus
    take: Callable[[Settings], None]


def configured(settings: Settings, clock: Clock) -> Iterator[Configured]:
    """Yield every bus; nothing is connected yet. Raises `SettingsInvalid` when its package is not installed."""
    if settings.nats_url:
        yield _nats(settings, clock)
    if settings.kafka_brokers:
        yield _kafka(settings, clock)
    if settings.redis_url:
        yield _redis(settings, clock)


def _nats(settings: Settings, clock: Clock) -> Configured:
    module = _module("jetstream", extra="nats", variable="FORWARDER_NATS_URL")

    def set_up(of: Settings) -> object:
        return module.NatsSettings(
            urls=[one.get_secret_value() for one in of.nats_url],
            stream=settings.nats_stream,
            subjects=settings.nats_subjects,
            durable=settings.nats_durable,
            credentials=settings.nats_credentials,
            ca_file=settings.nats_ca_file,
            cert_file=settings.nats_cert_file,
            key_file=settings.nats_key_file,
        )

    bus = module.JetStream(set_up(settings), clock=clock)
    return Configured("nats", bus, lambda new: bus.set_up(set_up(new)))


def _kafka(settings: Settings, clock: Clock) -> Configured:
    module = _module("kafka_topics", extra="kafka", variable="FORWARDER_KAFKA_BROKERS")

    def set_up(of: Settings) -> object:
        return module.KafkaSettings(
            brokers=settings.kafka_brokers,
            topics=settings.kafka_topics,
            group=settings.kafka_group,
            security=settings.kafka_security,
            mechanism=settings.kafka_mechanism,
            username=settings.kafka_username,
            password=revealed(of.kafka_password) or None,
            ca_file=settings.kafka_ca_file,
            cert_file=settings.kafka_cert_file,
            key_file=settings.kafka_key_file,
        )

    bus = module.KafkaTopics(set_up(settings), clock=clock)
    return Configured("kafka", bus, lambda new: bus.set_up(set_up(new)))


def _redis(settings: Settings, clock: Clock) -> Configured:
    module = _module("redis_streams", extra="redis", variable="FORWARDER_REDIS_URL")

    def set_up(of: Settings) -> object:
        return module.RedisSettings(
            url=revealed(of.redis_url),
            streams=settings.redis_streams,
            group=settings.redis_group,
            consumer=settings.redis_consumer or gethostname() or "forwarder",  # a restart finds what was in hand by it
            ca_file=settings.redis_ca_file,
            cert_file=settings.redis_cert_file,
            key_file=settings.redis_key_file,
        )

    bus = module.RedisStreams(set_up(settings), clock=clock)
    return Configured("redis", bus, lambda new: bus.set_up(set_up(new)))


def source_workers(
    settings: Settings,
    *,
    spool: Spool,
    clock: Clock,
    reporter: Reporter,
    swaps: Swaps,
    tracing: Tracing | None = None,
) -> Sequence[SourceWorker]:
    """Make the worker of every bus; none when the outbound route, whose events these are, does not run."""
    if RouteName.COURIER_TO_RUDDERSTACK not in settings.routes:
        return ()
    found = list(configured(settings, clock))
    swaps.extend(one.take for one in found)
    make = partial(SourceWorker, spool=spool, clock=clock, reporter=reporter, rng=random.random, tracing=tracing)
    return [make(one.name, one.bus) for one in found]


def _module(name: str, *, extra: str, variable: str) -> ModuleType:
    return module_of(f"forwarder.sources.{name}", extra=extra, packages=_PACKAGES[extra], variable=variable)
