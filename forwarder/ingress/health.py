"""Is the process alive, and may it be sent events? For a supervisor and a load balancer.

Alive: the daemon's loops turn. Ready: the spool is open and the listener is up. A destination's state, a hold, a pause
or a spool at its cap never makes the daemon unready: that would shut the other route's endpoints too. How
either is measured is not known here.
"""

from collections.abc import Callable, Sequence

import msgspec

from forwarder.ingress.replies import Reply
from forwarder.ports import Clock, Probeable

ALIVE_WITHIN_S = 60.0

_encode = msgspec.json.Encoder().encode


class Health:
    """Answer `/livez` and `/readyz`."""

    def __init__(
        self,
        *,
        clock: Clock,
        probes: Sequence[Probeable] = (),
        obstacles: Callable[[], Sequence[str]] = tuple,
        alive_within_s: float = ALIVE_WITHIN_S,
    ) -> None:
        """Keep whom to ask. `obstacles` returns why the daemon is not ready, its stopping apart; empty when it is."""
        self._clock = clock
        self._probes = tuple(probes)
        self._obstacles = obstacles
        self._alive_within_s = alive_within_s
        self._paths = {
            path + slash: ask
            for path, ask in ((b"/livez", self.livez), (b"/readyz", self.readyz))
            for slash in (b"", b"/")
        }
        self.is_listening = False  # the listener says so itself
        self.is_draining = False

    def reply(self, method: bytes, path: bytes) -> Reply | None:
        """Answer a request to one of the two paths; None when it is for somebody else."""
        ask = self._paths.get(path)
        if ask is None:
            return None
        if method not in (b"GET", b"HEAD"):
            return Reply(405, _encode({"error": "this path takes GET only"}), headers=(("Allow", "GET, HEAD"),))
        return ask()

    def livez(self) -> Reply:
        """Return 200 while every loop turned lately, else 503 that names those that did not."""
        now_s = self._clock.monotonic_s()
        stuck = [p.name for p in self._probes if not p.is_alive(now_s=now_s, within_s=self._alive_within_s)]
        return _reply("alive", [f"{name} made no progress for {self._alive_within_s:g} s" for name in stuck])

    def readyz(self) -> Reply:
        """Return 200 while events can be taken, else 503 that says why not."""
        reasons = list(self._obstacles())
        if self.is_draining:
            reasons.append("the daemon is stopping")
        elif not self.is_listening:
            reasons.append("the listener is not up")
        return _reply("ready", reasons)


def _reply(good: str, reasons: Sequence[str]) -> Reply:
    if not reasons:
        return Reply(200, _encode({"status": good}))
    return Reply(503, _encode({"status": f"not {good}", "reason": "; ".join(reasons)}), headers=(("Retry-After", "5"),))
