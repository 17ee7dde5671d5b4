"""Several replicas of the daemon as one, behind a load balancer: their lives, and who takes requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from forwarder.demo.totals import Totals
from proof.account import Scrapes
from proof.run import WRITE_KEY
from stand_ins.gate import Gate
from stand_ins.listener import HOST
from stand_ins.process import DaemonProcess

_LAST_WORDS: Final = 4_000  # characters of a log


@dataclass(slots=True, kw_only=True)
class Replica:
    """One place for a process, through all its lives."""

    daemon: DaemonProcess
    gates: Sequence[Gate]
    number: int
    lives: int = 0
    is_out: bool = False  # the load balancer leaves it out
    scrapes: Scrapes = field(default_factory=Scrapes)

    @property
    def life(self) -> str:
        """Return the name of its present life, which is its write key."""
        return f"{WRITE_KEY}-{self.number}-{self.lives}"

    def begin_life(self) -> str:
        """Have the next start be another life, and return its name."""
        self.lives += 1
        self.daemon.settings["RUDDERSTACK_WRITE_KEY"] = self.life
        return self.life

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        if self.daemon.process is not None and self.daemon.is_running:
            self.daemon.process.send_signal(number)


class Fleet:
    """All replicas as one daemon: see `proof.run.Watched`."""

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        self.gate = Gate(self._next)
        self._turn = 0

    @property
    def url(self) -> str:
        """Return where senders post: at whichever replica."""
        return f"http://{HOST}:{self.gate.port}"

    @property
    def operator_url(self) -> str:
        """Return the operator's listener of a replica that runs."""
        return self.serving()[0].daemon.operator_url

    def serving(self) -> list[Replica]:
        """Return the replicas that take requests."""
        return [one for one in self.replicas if one.daemon.is_running and not one.is_out]

    async def wait_for_totals(
        self, route: str, is_reached: Callable[[Totals], bool], *, timeout_s: float = 120.0
    ) -> Totals:
        """Wait until every replica's account of the route is as wanted."""
        found = [await one.daemon.wait_for_totals(route, is_reached, timeout_s=timeout_s) for one in self.serving()]
        return found[0]

    def _next(self) -> int | None:
        serving = self.serving()
        if not serving:
            return None
        self._turn += 1
        return serving[self._turn % len(serving)].daemon.port


async def ended(one: Replica) -> list[str]:
    """Stop a replica in order; return what was wrong with its end."""
    code = await one.daemon.stop()
    return [f"{one.life} ended with {code}: {one.daemon.logs()[-_LAST_WORDS:]}"] if code else []
