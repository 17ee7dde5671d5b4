"""Every login of Kafka but tickets and tokens, on a real server: the words are ours, and no secret is in them."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from forwarder.clock import SystemClock
from forwarder.errors import SourceAway
from forwarder.sources.kafka_connection import KafkaSettings
from forwarder.sources.kafka_topics import KafkaTopics
from stand_ins.kafka_server import IS_HERE, MISSING, KafkaServer
from stand_ins.listener import free_port

pytestmark = [
    pytest.mark.skipif(not IS_HERE, reason=MISSING),
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

_LOGIN = "org.apache.kafka.common.security"
_READ, _DESCRIBE, _WRITE = 3, 8, 4
_TOPIC, _GROUP = 2, 3
_IN = "group {} may read events (3 partitions); 1 messages wait"
Buses = Callable[..., KafkaTopics]


def _options(certificate: tuple[Path, Path], store: Path) -> dict[str, str]:
    """Return those of a server with every login, on which only who has a right may do something."""
    store.write_text("".join(file.read_text() for file in reversed(certificate)))
    options = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificate[0]),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        users = " ".join(f'user_{user}="sesame"' for user in ("reader", "blind", "alone"))
        options[f"listener.name.{listener}.plain.sasl.jaas.config"] = (
            f"{_LOGIN}.plain.PlainLoginModule required {users};"
        )
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            options[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = (
                f"{_LOGIN}.scram.ScramLoginModule required;"
            )
    return options


async def _allow(server: KafkaServer, *rights: tuple[str, int, str, int]) -> None:
    """Give users rights, each a user, a kind of thing, its name, and what may be done with it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=server.address)
    await admin.start()
    for user, kind, name, operation in rights:
        answer = await admin._send_request(CreateAclsRequest(kind, name, 3, f"User:{user}", "*", operation, 3))  # noqa: SLF001 - it has no verb for this
        assert [code for code, _ in answer.creation_responses] == [0]
    await admin.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> AsyncIterator[KafkaServer]:
    """Yield a running server with a topic of one message."""
    folder = tmp_path_factory.mktemp("kafka")
    server = KafkaServer(
        folder=folder,
        options=_options(certificate, folder / "store.pem"),
        secure={name: free_port() for name in ("SSL", "SASL_SSL", "SASL_PLAINTEXT")},
        scram=[f"SCRAM-SHA-{bits}=[name=reader,password=sesame]" for bits in (256, 512)],
    )
    await server.start()
    rights = [("reader", _TOPIC, "events", one) for one in (_READ, _DESCRIBE, _WRITE)]
    rights += [("blind", _TOPIC, "events", _DESCRIBE), ("alone", _TOPIC, "events", _READ)]
    await _allow(server, *rights, ("reader", _GROUP, "*", _READ), ("blind", _GROUP, "*", _READ))
    await _allow(server, ("CN=bus", _TOPIC, "events", _READ), ("CN=bus", _GROUP, "*", _READ))
    async with AIOKafkaProducer(bootstrap_servers=server.address, acks="all") as producer:
        await producer.send_and_wait("events", b"{}")
    yield server
    await server.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def bus(server: KafkaServer, request: pytest.FixtureRequest) -> AsyncIterator[Buses]:
    """Yield what makes a member with a login."""
    async with AsyncExitStack() as stack:

        def make(security: str = "sasl_plaintext", *, broker: str = "", **changed: Any) -> KafkaTopics:
            ports = {"plaintext": server.port} | {name.lower(): port for name, port in server.secure.items()}
            login = {"username": "reader", "password": "sesame"} if security.startswith("sasl") else {}
            broker = broker or f"127.0.0.1:{ports[security]}"
            settings: dict[str, Any] = {"brokers": [broker], "topics": ["events"], "group": request.node.name}
            settings |= {"security": security, **login, **changed}
            made = KafkaTopics(KafkaSettings(**settings), clock=SystemClock(), wait_s=0.2)
            stack.push_async_callback(made.close)
            return made

        yield make


async def _said(bus: KafkaTopics) -> str:
    try:
        return (await bus.prove()).replace(bus._settings.group, "{}")  # noqa: SLF001 - to compare it
    except SourceAway as error:
        return str(error)


@pytest.mark.parametrize("security", ["sasl_plaintext", "sasl_ssl"])
@pytest.mark.parametrize("mechanism", ["plain", "scram-sha-256", "scram-sha-512"])
async def test_a_user_with_a_password(
    bus: Buses, certificate: tuple[Path, Path], security: str, mechanism: str
) -> None:
    """Read on the topic and on the group is right enough; a wrong password is told, and is not in what is told."""
    good = bus(security, mechanism=mechanism, ca_file=certificate[0])
    assert await _said(good) == _IN
    assert [one.body for one in (await good.fetch(messages_max=10, bytes_max=1_048_576)).messages] in ([b"{}"], [])
    wrong = bus(security, mechanism=mechanism, ca_file=certificate[0], password="yesterday")
    assert await _said(wrong) == "Kafka refuses the login"


async def test_a_password_that_was_replaced_counts_at_the_next_connection(bus: Buses) -> None:
    """What was rotated needs no restart."""
    one = bus(password="yesterday")
    with pytest.raises(SourceAway, match="Kafka refuses the login"):
        await one.fetch(messages_max=1, bytes_max=1)
    one.set_up(bus()._settings)  # noqa: SLF001 - those of a good login
    await one.fetch(messages_max=1, bytes_max=1)


async def test_rights_that_are_missing_are_told(bus: Buses) -> None:
    """Of the topic, of the group, and that a topic is not to be seen."""
    assert await _said(bus(username="blind")) == "this Kafka user may not read the topics (Read and Describe)"
    assert await _said(bus(username="alone")) == "this Kafka user may not read with this group (Read)"
    assert "Kafka has " in await _said(bus(topics=["events", "else"]))


async def test_tls(bus: Buses, certificate: tuple[Path, Path]) -> None:
    """An own authority is taken when it is named; the brokers may ask for our certificate; all else is told."""
    cert, key = certificate
    assert await _said(bus("ssl", ca_file=cert, cert_file=cert, key_file=key)) == _IN
    assert await _said(bus("ssl", cert_file=cert, key_file=key)) == (
        "Kafka's certificate is not trusted, or of another name"
    )
    assert await _said(bus("ssl", ca_file=cert)) != _IN
    assert await _said(bus("ssl", ca_file=key)) == (
        "a file of FORWARDER_KAFKA_CA_FILE, …CERT_FILE and …KEY_FILE cannot be used"
    )


@pytest.mark.parametrize(("ours", "theirs"), [("ssl", "plaintext"), ("plaintext", "ssl"), ("ssl", "sasl_plaintext")])
async def test_another_security_is_told(
    bus: Buses, server: KafkaServer, certificate: tuple[Path, Path], ours: str, theirs: str
) -> None:
    """It is said that the setting may be wrong; and where nobody listens, that."""
    broker = f"127.0.0.1:{server.secure.get(theirs.upper(), server.port)}"
    assert await _said(bus(ours, broker=broker, ca_file=certificate[0])) == (
        "Kafka hangs up: FORWARDER_KAFKA_SECURITY may be another one there"
    )
    assert await _said(bus("plaintext", broker="127.0.0.1:1")) == "Kafka cannot be reached"


async def test_what_is_sent_is_fetched(bus: Buses) -> None:
    """It says where it is; a user without the right to write is told."""
    assert (await bus().send(b'{"a":1}')).endswith("of topic events")
    with pytest.raises(SourceAway, match="may not"):
        await bus(username="alone").send(b"{}")


async def test_nothing_secret_is_shown(bus: Buses) -> None:
    """Neither the settings' nor the member's repr holds the password."""
    one = bus()
    assert "sesame" not in repr(one._settings) + repr(one)  # noqa: SLF001 - their repr
