"""A real Kafka as a process of its own, on loopback: one node that is broker and controller (KRaft).

It may be killed and started again in the same folder and on the same ports. Topics come to be when they are first
written to, with `partitions` each.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stand_ins.listener import HOST, free_port
from stand_ins.served import READY_MAX_S, Server, ServerFailed, last_words, spawn

_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"  # any id of 16 bytes in base64
_JARS = Path(__file__).parents[1] / "sdks" / ".built" / "kafka"
_JAVA = shutil.which("java") or ""
IS_HERE = bool(_JAVA) and _JARS.is_dir()
MISSING = "Kafka's jars or Java are not on this machine (make sdks)"


@dataclass(slots=True, kw_only=True)
class KafkaServer(Server):
    """See `Server`."""

    partitions: int = 3
    options: Mapping[str, str] = field(default_factory=dict)  # over the settings below
    secure: Mapping[str, int] = field(default_factory=dict)  # SSL, SASL_SSL, SASL_PLAINTEXT, each with its port
    scram: Sequence[str] = ()  # users, each as `SCRAM-SHA-512=[name=…,password=…]`
    controller_port: int = field(default_factory=free_port)

    async def start(self) -> None:
        """Start it and wait until it serves; raises `ServerFailed`."""
        if not IS_HERE:
            raise ServerFailed(MISSING)
        settings = self.folder / "server.properties"
        if not settings.exists():
            settings.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
            formatting: tuple[str, ...] = ("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(settings))
            formatting += tuple(word for user in self.scram for word in ("--add-scram", user))
            formatter = spawn(*self._java(*formatting), folder=self.folder, log=self.log)
            if await asyncio.to_thread(formatter.wait, READY_MAX_S):
                raise ServerFailed(f"its storage could not be formatted:\n{last_words(self.log)}")
        await self._serve(*self._java("kafka.Kafka", str(settings)), says="Kafka Server started")

    def _java(self, *words: str) -> tuple[str, ...]:
        logging = f"-Dlog4j2.configurationFile={self._logging()}"
        return (_JAVA, "-Xmx256m", "-XX:TieredStopAtLevel=1", logging, "-cp", f"{_JARS}/*", *words)

    def _logging(self) -> Path:
        file = self.folder / "log4j2.properties"
        if not file.exists():
            file.write_text(
                "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=OUT\nappender.out.type=Console\nappender.out.name=OUT\n"
                "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n\n"
                "logger.started.name=kafka.server.KafkaRaftServer\nlogger.started.level=INFO\n"
            )
        return file

    def _settings(self) -> dict[str, str]:
        beside = "".join(f",{protocol}://{HOST}:{port}" for protocol, port in self.secure.items())
        own = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}{beside}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}{beside}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"
            + "".join(f",{protocol}:{protocol}" for protocol in self.secure),
            "log.dirs": str(self.folder / "data"),
            "num.partitions": str(self.partitions),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        return own | dict(self.options)
