"""The Kafka that tests run is a Kafka."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stand_ins.kafka_server import IS_HERE, MISSING, KafkaServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KafkaServer]:
    """Yield a running server."""
    server = KafkaServer(folder=tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.mark.skipif(not IS_HERE, reason=MISSING)
@pytest.mark.slow
async def test_what_was_written_is_there_after_a_restart(server: KafkaServer) -> None:
    """Messages that were acknowledged to their producer are read by a consumer after a stop and a start."""
    async with AIOKafkaProducer(bootstrap_servers=server.address, acks="all") as producer:
        for number in range(3):
            await producer.send_and_wait("events", b"%d" % number, key=b"one")
    await server.stop()
    await server.start()
    consumer = AIOKafkaConsumer("events", bootstrap_servers=server.address, auto_offset_reset="earliest")
    async with consumer:
        assert [(await consumer.getone()).value for _ in range(3)] == [b"0", b"1", b"2"]
