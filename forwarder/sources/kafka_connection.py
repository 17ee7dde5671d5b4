"""How Kafka is reached (TLS, logins, time-outs), and in whose words it is said that it is not."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiokafka import errors
from aiokafka.conn import create_conn
from aiokafka.helpers import create_ssl_context

from forwarder.errors import SourceAway

ANSWER_MAX_S: Final = 15.0  # of one request to the group or the brokers; aiokafka repeats some of them for ever
_AWAY: Final[Sequence[tuple[tuple[type[Exception], ...], str]]] = (  # the first that fits
    (
        (
            errors.SaslAuthenticationFailed,
            errors.AuthenticationFailedError,
            errors.AuthenticationMethodNotSupported,
            errors.IllegalSaslStateError,
        ),
        "Kafka refuses the login",
    ),
    ((errors.UnsupportedSaslMechanismError,), "Kafka does not know FORWARDER_KAFKA_MECHANISM"),
    ((errors.TopicAuthorizationFailedError,), "this Kafka user may not read the topics (Read and Describe)"),
    ((errors.GroupAuthorizationFailedError,), "this Kafka user may not read with this group (Read)"),
    ((errors.UnknownTopicOrPartitionError,), "Kafka has not all of the topics, or this user may not see them"),
    ((errors.UnsupportedCodecError,), "a message is packed in a way that is not known here"),
    ((TimeoutError, errors.KafkaTimeoutError, errors.RequestTimedOutError), "Kafka does not answer in time"),
    ((ssl.SSLCertVerificationError,), "Kafka's certificate is not trusted, or of another name"),
    ((ssl.SSLError,), "TLS with Kafka fails: it may have none, or ask for a certificate of ours"),
    ((errors.KafkaConnectionError, errors.NodeNotReadyError, OSError), "Kafka cannot be reached"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """Whom to read. No repr of the password."""

    brokers: Sequence[str]  # host:port
    topics: Sequence[str]
    group: str = "forwarder"
    security: str = "plaintext"  # or ssl, sasl_plaintext, sasl_ssl
    mechanism: str = "plain"  # or scram-sha-256, scram-sha-512
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None  # with `key_file`: what the brokers know us by
    key_file: Path | None = None


def login(settings: KafkaSettings) -> dict[str, Any]:
    """Return what aiokafka takes for security and login. Raises `SourceAway` for a file that cannot be used."""
    context: ssl.SSLContext | None = None
    if settings.security.endswith("ssl"):
        try:
            context = create_ssl_context(
                cafile=settings.ca_file, certfile=settings.cert_file, keyfile=settings.key_file, password=""
            )
        except OSError:
            raise SourceAway("a file of FORWARDER_KAFKA_CA_FILE, …CERT_FILE and …KEY_FILE cannot be used") from None
    return {
        "security_protocol": settings.security.upper(),
        "ssl_context": context,
        "sasl_mechanism": settings.mechanism.upper(),
        "sasl_plain_username": settings.username,
        "sasl_plain_password": settings.password,
    }


async def why(settings: KafkaSettings, error: Exception) -> SourceAway:
    """Say why a start failed: aiokafka keeps to itself why no broker could be talked to, so one is asked again."""
    if isinstance(error, errors.KafkaConnectionError):
        for broker in settings.brokers:
            host, _, port = broker.rpartition(":")
            try:
                connection = await create_conn(
                    host.strip("[]"), int(port), request_timeout_ms=round(ANSWER_MAX_S * 1000), **login(settings)
                )
                connection.close()
            except ConnectionRefusedError:
                continue
            except (ConnectionError, errors.KafkaConnectionError):
                return SourceAway("Kafka hangs up: FORWARDER_KAFKA_SECURITY may be another one there")
            except (errors.KafkaError, OSError) as found:
                return away(found)
    return away(error)


def away(error: Exception) -> SourceAway:
    """Say what is the matter in words of our own."""
    text = next((text for kinds, text in _AWAY if isinstance(error, kinds)), None)
    return SourceAway(text or f"Kafka answers with an error ({type(error).__name__})")
