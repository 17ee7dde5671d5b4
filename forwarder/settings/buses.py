"""The settings of the user's own bus, each kind of it a source of events of the outbound route."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, WrapValidator
from pydantic_settings import BaseSettings

from forwarder.settings import values
from forwarder.settings.choices import readable_file, word

SWITCHES = ("FORWARDER_NATS_URL", "FORWARDER_KAFKA_BROKERS", "FORWARDER_REDIS_URL")  # each of them switches a source on
_NAME = re.compile(r"[^\s.*>/\\]+")
_SUBJECT = re.compile(r"(?:[^\s.*>]+|\*)(?:\.(?:[^\s.*>]+|\*))*(?:\.>)?|>")
_NEEDS = dict(
    zip(SWITCHES, ("FORWARDER_NATS_STREAM", "FORWARDER_KAFKA_TOPICS", "FORWARDER_REDIS_STREAMS"), strict=True)
)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_KAFKA_LOGIN = ("FORWARDER_KAFKA_USERNAME", "FORWARDER_KAFKA_PASSWORD")


def _nats_urls(text: str) -> tuple[SecretStr, ...]:
    """Read one or more URLs, separated by commas. All of them are secrets: they may hold a password or a token."""
    found = values.secret_list(text)
    for one in found:
        try:
            parts = urlsplit(one.get_secret_value())
            is_good = parts.hostname and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or not one.get_secret_value().startswith(("nats://", "tls://")):
            raise ValueError("it is no URL that begins with nats:// or tls:// and names a host")
    return found


def _nats_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("it contains a blank, a dot, a slash, * or >")
    return text


def _nats_subjects(text: str) -> tuple[str, ...]:
    found = values.names(text)
    if not all(_SUBJECT.fullmatch(one) for one in found):
        raise ValueError("one of them is no subject")
    return found


def _kafka_brokers(text: str) -> tuple[str, ...]:
    found = values.names(text)
    for one in found:
        try:
            address = values.address(one)
        except ValueError:
            address = values.Address("", 0)
        if not address.port or one.startswith(":"):
            raise ValueError("one of them is no host:port")
    return found


def _kafka_topics(text: str) -> tuple[str, ...]:
    found = values.names(text)
    if not all(_TOPIC.fullmatch(one) for one in found):
        raise ValueError("one of them is no topic's name (letters, digits, dot, _ and -)")
    return found


def _redis_url(text: str) -> SecretStr:
    """Read one URL; all of it is a secret, for it may hold a password."""
    values.no_blank(text)
    try:
        parts = urlsplit(text)
        is_good = parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError("it is no URL") from None
    is_known = text.startswith(("redis://", "rediss://", "unix://"))  # the library knows them in this case alone
    if not (is_known and (parts.path if parts.scheme == "unix" else is_good)):
        raise ValueError("it is no URL that begins with redis:// or rediss:// and names a host, nor unix:// and a path")
    if "?" in text or "#" in text:
        # The library takes options from there, over those that the daemon relies on.
        raise ValueError("it has a query or a fragment (in a password write %3F and %23)")
    if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("its path is no number of a database")
    return SecretStr(text)


_File = Annotated[Path, AfterValidator(readable_file)]
_Word = Annotated[str, AfterValidator(values.no_blank)]
_NatsName = Annotated[str, AfterValidator(_nats_name)]


class BusSettings(BaseSettings):
    """Fields of `Settings`."""

    nats_url: Annotated[tuple[SecretStr, ...], BeforeValidator(_nats_urls)] = Field(
        (),
        description="Set nats://host:4222 or tls://…, perhaps with user:password@ or token@; several comma-separated.",
    )
    nats_stream: _NatsName | None = Field(None, description="Set the name of the JetStream stream, such as EVENTS.")
    nats_subjects: Annotated[tuple[str, ...], BeforeValidator(_nats_subjects)] = Field(
        (),
        description="Set subjects of the stream, comma-separated, such as events.>; or leave it unset for all of them.",
    )
    nats_durable: _NatsName = Field("forwarder", description="Set the name of the durable consumer, such as forwarder.")
    nats_credentials: _File | None = Field(
        None, description="Set the path of a credentials file (.creds, or a user's seed) that the daemon may read."
    )
    nats_ca_file: _File | None = Field(None, description="Set the path of a file with the CA's certificates (PEM).")
    nats_cert_file: _File | None = Field(None, description="Set the path of our own certificate (PEM).")
    nats_key_file: _File | None = Field(None, description="Set the path of our certificate's key (PEM).")

    kafka_brokers: Annotated[tuple[str, ...], BeforeValidator(_kafka_brokers)] = Field(
        (), description="Set one or more brokers as host:9092, comma-separated; the others are found by them."
    )
    kafka_topics: Annotated[tuple[str, ...], BeforeValidator(_kafka_topics)] = Field(
        (), description="Set the names of the topics to read, comma-separated."
    )
    kafka_group: _Word = Field("forwarder", description="Set the name of the consumer group, such as forwarder.")
    kafka_security: Annotated[Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], WrapValidator(word)] = Field(
        "plaintext", description="Set plaintext, ssl (TLS), sasl_plaintext (a login) or sasl_ssl (both)."
    )
    kafka_mechanism: Annotated[Literal["plain", "scram-sha-256", "scram-sha-512"], WrapValidator(word)] = Field(
        "plain", description="Set plain, scram-sha-256 or scram-sha-512."
    )
    kafka_username: str | None = Field(None, description="Set the user's name, with sasl_plaintext or sasl_ssl.")
    kafka_password: SecretStr | None = Field(None, description="Set the user's password.")
    kafka_ca_file: _File | None = Field(None, description="Set the path of a file with the CA's certificates (PEM).")
    kafka_cert_file: _File | None = Field(None, description="Set the path of our own certificate (PEM).")
    kafka_key_file: _File | None = Field(None, description="Set the path of our certificate's key (PEM).")

    redis_url: Annotated[SecretStr, BeforeValidator(_redis_url)] | None = Field(
        None, description="Set redis://host:6379/0, rediss://… with TLS or unix:///path, perhaps with user:password@."
    )
    redis_streams: Annotated[tuple[str, ...], BeforeValidator(values.names)] = Field(
        (), description="Set the keys of the streams to read, comma-separated."
    )
    redis_group: _Word = Field("forwarder", description="Set the name of the consumer group, such as forwarder.")
    redis_consumer: _Word | None = Field(
        None,
        description="Set a name that this daemon alone has in the group, and keeps over a restart; or leave it unset.",
    )
    redis_ca_file: _File | None = Field(None, description="Set the path of a file with the CA's certificates (PEM).")
    redis_cert_file: _File | None = Field(None, description="Set the path of our own certificate (PEM).")
    redis_key_file: _File | None = Field(None, description="Set the path of our certificate's key (PEM).")


def bus_conflicts(settings: BusSettings, given: Collection[str]) -> Iterator[str]:
    """Yield what only several of these settings together can get wrong."""
    for switch, needed in _NEEDS.items():
        bus = switch.rpartition("_")[0] + "_"
        ours = sorted(variable for variable in given if variable.startswith(bus))
        if ours and switch not in given:
            yield f"{ours[0]}: it says nothing without {switch}. Set that, or remove it."
        if switch in given and needed not in given:
            yield f"{switch}: it needs {needed}. Set what is to be read."
        pair = (f"{bus}CERT_FILE", f"{bus}KEY_FILE")
        for one, other in (pair, pair[::-1]):
            if one in given and other not in given:
                yield f"{one}: certificate and key go together. Set {other} with it."
    yield from _kafka_conflicts(settings, given)
    if settings.redis_url and _scheme(settings.redis_url) != "rediss":
        for variable in _files("REDIS", given):
            yield f"{variable}: without TLS it says nothing. Write rediss:// in FORWARDER_REDIS_URL, or remove it."


def _kafka_conflicts(settings: BusSettings, given: Collection[str]) -> Iterator[str]:
    login = [variable for variable in _KAFKA_LOGIN if variable in given]
    if settings.kafka_security.startswith("sasl") and len(login) < len(_KAFKA_LOGIN):
        yield f"FORWARDER_KAFKA_SECURITY: {settings.kafka_security} needs {' and '.join(_KAFKA_LOGIN)}. Set both."
    if login and not settings.kafka_security.startswith("sasl"):
        yield f"{login[0]}: without sasl it says nothing. Set FORWARDER_KAFKA_SECURITY to sasl_ssl, or remove it."
    if not settings.kafka_security.endswith("ssl"):
        for variable in _files("KAFKA", given):
            yield f"{variable}: without TLS it says nothing. Set FORWARDER_KAFKA_SECURITY to ssl, or remove it."


def bus_doubts(settings: BusSettings) -> Iterator[tuple[bool, str]]:
    """Yield what is allowed but probably not meant, each with whether it is so."""
    urls = [urlsplit(one.get_secret_value()) for one in settings.nats_url]
    is_far = any(one.scheme == "nats" and not values.is_loopback(one.hostname or "") for one in urls)
    yield (
        is_far and settings.nats_ca_file is None and any(one.username for one in urls),
        (
            "FORWARDER_NATS_URL holds a login and begins with nats://: unless the server insists on TLS it goes over "
            "the network unencrypted. Write tls://."
        ),
    )
    yield (
        not settings.kafka_security.endswith("ssl")
        and not all(values.is_loopback(values.address(one).host) for one in settings.kafka_brokers),
        (
            f"FORWARDER_KAFKA_SECURITY is {settings.kafka_security}: logins and events go over the network "
            "unencrypted. Set ssl or sasl_ssl."
        ),
    )
    redis = urlsplit(settings.redis_url.get_secret_value()) if settings.redis_url else None
    yield (
        redis is not None and redis.scheme == "redis" and not values.is_loopback(redis.hostname or ""),
        "FORWARDER_REDIS_URL begins with redis://: logins and events go over the network unencrypted. Write rediss://.",
    )


def _files(bus: str, given: Collection[str]) -> list[str]:
    return sorted({f"FORWARDER_{bus}_{one}_FILE" for one in ("CA", "CERT", "KEY")} & set(given))


def _scheme(url: SecretStr) -> str:
    return urlsplit(url.get_secret_value()).scheme
