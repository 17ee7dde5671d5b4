"""A real Kafka as a process of its own, on loopback: one node that is broker and controller (KRaft).

It may be killed and started again in the same folder and on the same ports. Topics come to be when they are first
written to, with `partitions` each.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stand_ins.listener import HOST, free_port

_LOOK_AGAIN_S = 0.05
_LAST_WORDS = 3_000  # characters of its log that an error quotes
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"  # any id of 16 bytes in base64
_JARS = Path(__file__).parents[1] / "sdks" / ".built" / "kafka"
_JAVA = shutil.which("java") or ""
IS_HERE = bool(_JAVA) and _JARS.is_dir()
MISSING = "Kafka's jars or Java are not on this machine (make sdks)"


class KafkaFailed(Exception):
    """The server did not start or stop in time; the text ends with its log."""


@dataclass(slots=True, kw_only=True)
class KafkaServer:
    """Start it, kill it, start it again. It is ended by its own process id."""

    folder: Path  # exists; holds the data, the settings and the log
    partitions: int = 3
    options: Mapping[str, str] = field(default_factory=dict)  # over the settings below
    secure: Mapping[str, int] = field(default_factory=dict)  # SSL, SASL_SSL, SASL_PLAINTEXT, each with its port
    scram: Sequence[str] = ()  # users, each as `SCRAM-SHA-512=[name=…,password=…]`
    port: int = field(default_factory=free_port)
    controller_port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Return host and port, as a list of brokers has them."""
        return f"{HOST}:{self.port}"

    async def start(self, *, ready_max_s: float = 60.0) -> None:
        """Start it and wait until it serves; `KafkaFailed` at the time-out."""
        if not IS_HERE:
            raise KafkaFailed(MISSING)
        settings = self.folder / "server.properties"
        if not settings.exists():
            settings.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
            formatting: tuple[str, ...] = ("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(settings))
            formatting += tuple(word for user in self.scram for word in ("--add-scram", user))
            process = await self._java(*formatting)
            if await asyncio.wait_for(process.wait(), ready_max_s):
                raise KafkaFailed(f"its storage could not be formatted:\n{self._last_words()}")
        started = self._log().count("Kafka Server started")
        self.process = await self._java("kafka.Kafka", str(settings))
        ends_s = time.monotonic() + ready_max_s
        while time.monotonic() < ends_s and self.process.returncode is None:
            if self._log().count("Kafka Server started") > started:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)
        await self.kill()
        raise KafkaFailed(f"it did not start:\n{self._last_words()}")

    async def stop(self, *, timeout_s: float = 60.0) -> None:
        """Ask it to stop and wait for it. Does nothing when it is not running."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), timeout_s)

    async def kill(self) -> None:
        """End it as a power cut would. Does nothing when it is not running."""
        with contextlib.suppress(ProcessLookupError):
            if self.process is not None and self.process.returncode is None:
                self.process.kill()
                await self.process.wait()

    async def _java(self, *words: str) -> asyncio.subprocess.Process:
        with (self.folder / "log.txt").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(_JAVA, "-Xmx256m", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={self._logging()}"),
                *("-cp", f"{_JARS}/*", *words),
                cwd=self.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _logging(self) -> Path:
        file = self.folder / "log4j2.properties"
        if not file.exists():
            file.write_text(
                "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=OUT\nappender.out.type=Console\nappender.out.name=OUT\n"
                "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n\n"
                "logger.started.name=kafka.server.KafkaRaftServer\nlogger.started.level=INFO\n"
            )
        return file

    def _log(self) -> str:
        file = self.folder / "log.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def _last_words(self) -> str:
        return self._log()[-_LAST_WORDS:]

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
