"""The settings of the user's own bus, each kind of it a source of events of the outbound route."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from forwarder.settings import values
from forwarder.settings.choices import readable_file

SWITCHES = ("FORWARDER_NATS_URL",)  # each of them switches a source on
_NAME = re.compile(r"[^\s.*>/\\]+")
_SUBJECT = re.compile(r"(?:[^\s.*>]+|\*)(?:\.(?:[^\s.*>]+|\*))*(?:\.>)?|>")
_NATS_SCHEMES = ("nats://", "tls://")


def _nats_urls(text: str) -> tuple[SecretStr, ...]:
    """Read one or more URLs, separated by commas. All of them are secrets: they may hold a password or a token."""
    found = values.secret_list(text)
    for one in found:
        try:
            parts = urlsplit(one.get_secret_value())
            is_good = parts.hostname and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or not one.get_secret_value().startswith(_NATS_SCHEMES):
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


_File = Annotated[Path, AfterValidator(readable_file)]
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


def bus_conflicts(given: Collection[str]) -> Iterator[str]:
    """Yield what only several of these settings together can get wrong."""
    ours = sorted(variable for variable in given if variable.startswith("FORWARDER_NATS_"))
    if ours and "FORWARDER_NATS_URL" not in given:
        yield f"{ours[0]}: it says nothing without FORWARDER_NATS_URL. Set that, or remove it."
    if "FORWARDER_NATS_URL" in given and "FORWARDER_NATS_STREAM" not in given:
        yield "FORWARDER_NATS_URL: it needs FORWARDER_NATS_STREAM. Set the name of the stream to read."
    pair = ("FORWARDER_NATS_CERT_FILE", "FORWARDER_NATS_KEY_FILE")
    for one, other in (pair, pair[::-1]):
        if one in given and other not in given:
            yield f"{one}: certificate and key go together. Set {other} with it."


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
