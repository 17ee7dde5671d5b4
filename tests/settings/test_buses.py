"""Settings of the user's own bus: what they may be, and what several of them together get wrong."""

from pathlib import Path

import pytest

from forwarder.errors import SettingsInvalid
from forwarder.model import RouteName
from forwarder.settings import load
from forwarder.settings.together import doubts

_BASE = {"RUDDERSTACK_WRITE_KEY": "wk-1", "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com"}
_NATS = {"FORWARDER_NATS_URL": "tls://u:sesame@nats:4222", "FORWARDER_NATS_STREAM": "EVENTS"}

_REDIS = {"FORWARDER_REDIS_URL": "rediss://u:sesame@redis:6380/1", "FORWARDER_REDIS_STREAMS": "events"}

_KAFKA = {
    "FORWARDER_KAFKA_BROKERS": "a:9093, [::1]:9093",
    "FORWARDER_KAFKA_TOPICS": "events",
    "FORWARDER_KAFKA_GROUP": "g",
    "FORWARDER_KAFKA_SECURITY": "sasl_ssl",
    "FORWARDER_KAFKA_USERNAME": "u",
    "FORWARDER_KAFKA_PASSWORD": "sesame",
}


def test_a_bus_is_source_enough(tmp_path: Path) -> None:
    """Without a webhook's secret and a key for `/events` the outbound route runs."""
    read = load(_BASE | _NATS | {"FORWARDER_NATS_SUBJECTS": "a.*, b.>"}, tmp_path)

    assert read.routes == (RouteName.COURIER_TO_RUDDERSTACK,)
    assert (read.nats_stream, read.nats_subjects, read.nats_durable) == ("EVENTS", ("a.*", "b.>"), "forwarder")
    assert "sesame" not in repr(read) + str(read.rows())


def test_kafka_with_a_login(tmp_path: Path) -> None:
    """Its password is the only secret."""
    read = load(_BASE | _KAFKA, tmp_path)

    assert read.routes == (RouteName.COURIER_TO_RUDDERSTACK,)
    assert (read.kafka_brokers, read.kafka_topics, read.kafka_group) == (("a:9093", "[::1]:9093"), ("events",), "g")
    assert (read.kafka_security, read.kafka_mechanism, read.kafka_username) == ("sasl_ssl", "plain", "u")
    assert "sesame" not in repr(read) + str(read.rows())


def test_redis_needs_no_more_than_url_and_streams(tmp_path: Path) -> None:
    """The group has a name of its own; the consumer is called as the machine is."""
    read = load(_BASE | _REDIS | {"FORWARDER_REDIS_STREAMS": "a, b"}, tmp_path)

    assert read.routes == (RouteName.COURIER_TO_RUDDERSTACK,)
    assert (read.redis_streams, read.redis_group, read.redis_consumer) == (("a", "b"), "forwarder", None)
    assert "sesame" not in repr(read) + str(read.rows())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"FORWARDER_NATS_URL": "http://nats"}, "FORWARDER_NATS_URL: it is no URL that begins with nats://"),
        ({"FORWARDER_NATS_URL": "nats://"}, "FORWARDER_NATS_URL: it is no URL"),
        ({"FORWARDER_NATS_URL": "nats://a:sesame@h:port"}, "FORWARDER_NATS_URL: it is no URL"),
        ({"FORWARDER_NATS_STREAM": "a.b"}, "FORWARDER_NATS_STREAM: it contains"),
        ({"FORWARDER_NATS_STREAM": ""}, "FORWARDER_NATS_URL: it needs FORWARDER_NATS_STREAM"),
        ({"FORWARDER_NATS_DURABLE": "a b"}, "FORWARDER_NATS_DURABLE: it contains"),
        ({"FORWARDER_NATS_SUBJECTS": "a..b"}, "FORWARDER_NATS_SUBJECTS: one of them is no subject"),
        ({"FORWARDER_NATS_SUBJECTS": "a.>.b"}, "FORWARDER_NATS_SUBJECTS: one of them is no subject"),
        ({"FORWARDER_NATS_CREDENTIALS": "/none"}, "FORWARDER_NATS_CREDENTIALS: there is no such file"),
        ({"FORWARDER_NATS_CERT_FILE": __file__}, "FORWARDER_NATS_CERT_FILE: certificate and key go together"),
        (
            {"FORWARDER_NATS_KEY_FILE": __file__},
            "FORWARDER_NATS_KEY_FILE: certificate and key go together. Set FORWARDER_NATS_CERT",
        ),
        ({"FORWARDER_NATS_URL": "TLS://nats"}, "FORWARDER_NATS_URL: it is no URL that begins with nats://"),
        ({"FORWARDER_KAFKA_BROKERS": "kafka"}, "FORWARDER_KAFKA_BROKERS: one of them is no host:port"),
        ({"FORWARDER_KAFKA_BROKERS": "a:1,:9092"}, "FORWARDER_KAFKA_BROKERS: one of them is no host:port"),
        ({"FORWARDER_KAFKA_TOPICS": "a b"}, "FORWARDER_KAFKA_TOPICS: one of them is no topic's name"),
        ({"FORWARDER_KAFKA_TOPICS": ""}, "FORWARDER_KAFKA_BROKERS: it needs FORWARDER_KAFKA_TOPICS"),
        ({"FORWARDER_KAFKA_BROKERS": ""}, "FORWARDER_KAFKA_GROUP: it says nothing without FORWARDER_KAFKA_BROKERS"),
        ({"FORWARDER_KAFKA_SECURITY": "tls"}, "FORWARDER_KAFKA_SECURITY: it is none of plaintext, ssl"),
        ({"FORWARDER_KAFKA_SECURITY": "ssl"}, "FORWARDER_KAFKA_USERNAME: without sasl it says nothing"),
        ({"FORWARDER_KAFKA_PASSWORD": ""}, "FORWARDER_KAFKA_SECURITY: sasl_ssl needs FORWARDER_KAFKA_USERNAME and"),
        ({"FORWARDER_KAFKA_MECHANISM": "scram"}, "FORWARDER_KAFKA_MECHANISM: it is none of plain, scram-sha-256"),
        ({"FORWARDER_KAFKA_CERT_FILE": __file__}, "FORWARDER_KAFKA_CERT_FILE: certificate and key go together"),
        (
            {"FORWARDER_KAFKA_SECURITY": "sasl_plaintext", "FORWARDER_KAFKA_CA_FILE": __file__},
            "FORWARDER_KAFKA_CA_FILE: without TLS it says nothing",
        ),
        ({"FORWARDER_REDIS_URL": "http://redis"}, "FORWARDER_REDIS_URL: it is no URL that begins with redis://"),
        ({"FORWARDER_REDIS_URL": "REDIS://redis"}, "FORWARDER_REDIS_URL: it is no URL that begins with redis://"),
        ({"FORWARDER_REDIS_URL": "redis://"}, "FORWARDER_REDIS_URL: it is no URL"),
        ({"FORWARDER_REDIS_URL": "unix://"}, "FORWARDER_REDIS_URL: it is no URL"),
        ({"FORWARDER_REDIS_URL": "redis://a:sesame@h:port"}, "FORWARDER_REDIS_URL: it is no URL"),
        ({"FORWARDER_REDIS_URL": "redis://a:sesame@h?decode_responses=True"}, "FORWARDER_REDIS_URL: it has a query"),
        ({"FORWARDER_REDIS_URL": "redis://a:ses#ame@h"}, "FORWARDER_REDIS_URL: it "),
        ({"FORWARDER_REDIS_URL": "redis://a:sesame@h/events"}, "FORWARDER_REDIS_URL: its path is no number"),
        ({"FORWARDER_REDIS_STREAMS": ""}, "FORWARDER_REDIS_URL: it needs FORWARDER_REDIS_STREAMS"),
        ({"FORWARDER_REDIS_GROUP": "a b"}, "FORWARDER_REDIS_GROUP: it contains a blank"),
        ({"FORWARDER_REDIS_KEY_FILE": __file__}, "FORWARDER_REDIS_KEY_FILE: certificate and key go together"),
        (
            {"FORWARDER_REDIS_URL": "redis://h", "FORWARDER_REDIS_CA_FILE": __file__},
            "FORWARDER_REDIS_CA_FILE: without TLS it says nothing",
        ),
        ({"FORWARDER_REDIS_URL": ""}, "FORWARDER_REDIS_STREAMS: it says nothing without"),
        ({"FORWARDER_NATS_URL": "", "COURIER_WEBHOOK_SECRET": "s"}, "FORWARDER_NATS_STREAM: it says nothing without"),
    ],
)
def test_what_cannot_be_meant_is_said(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    """Each problem names its variable, and no secret."""
    with pytest.raises(SettingsInvalid) as raised:
        load(_BASE | _NATS | _KAFKA | _REDIS | changed, tmp_path)

    assert said in str(raised.value)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"FORWARDER_NATS_URL": "nats://u:sesame@nats:4222"}, "FORWARDER_NATS_URL holds"),
        ({"FORWARDER_KAFKA_SECURITY": "sasl_plaintext"}, "FORWARDER_KAFKA_SECURITY is sasl_plaintext"),
        ({"FORWARDER_REDIS_URL": "redis://redis"}, "FORWARDER_REDIS_URL begins"),
        (
            {"FORWARDER_ROUTES": "rudderstack_to_courier", "FORWARDER_INBOUND_KEYS": "k", "COURIER_API_KEY": "c"},
            "nothing is taken from there",
        ),
    ],
)
def test_what_is_probably_not_meant_is_doubted(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    """A login without encryption, and a source without its route (control: neither is said of a good set-up)."""
    assert any(said in one for one in doubts(load(_BASE | _NATS | _KAFKA | _REDIS | changed, tmp_path)))
    assert not any("_URL" in one or "KAFKA" in one for one in doubts(load(_BASE | _NATS | _KAFKA | _REDIS, tmp_path)))
