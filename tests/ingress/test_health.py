"""Health: what a supervisor and a load balancer are told."""

import json
from dataclasses import dataclass

import pytest

from forwarder.ingress.routing import Health
from stand_ins.clock import HandClock


@dataclass
class Loop:
    """A loop that last turned at a time."""

    name: str
    turned_s: float

    def is_alive(self, *, now_s: float, within_s: float) -> bool:
        """Tell whether it turned within the time."""
        return now_s - self.turned_s <= within_s


def test_alive_while_every_loop_turns() -> None:
    """The daemon is alive while every loop turned lately; one that did not is named."""
    health = Health(clock=HandClock(1_000_000), probes=[Loop("writer", 990), Loop("delivery", 950)], alive_within_s=30)
    reply = health.livez()
    assert reply.status == 503
    assert json.loads(reply.body) == {"status": "not alive", "reason": "delivery made no progress for 30 s"}
    assert Health(clock=HandClock(1_000_000), probes=[Loop("writer", 990)], alive_within_s=30).livez().status == 200


def test_ready_while_listening() -> None:
    """The daemon is ready between the start of the listener and the start of its end."""
    health = Health(clock=HandClock(1_000_000))
    assert json.loads(health.readyz().body)["reason"] == "the listener is not up"
    health.is_listening = True
    assert (health.readyz().status, json.loads(health.readyz().body)) == (200, {"status": "ready"})
    health.is_draining = True
    assert json.loads(health.readyz().body)["reason"] == "the daemon is stopping"


def test_not_ready_says_why() -> None:
    """What stands in the way is named, and the daemon is alive all the same."""
    health = Health(clock=HandClock(1_000_000), obstacles=lambda: ["the spool is not open"])
    health.is_listening = True
    assert json.loads(health.readyz().body) == {"status": "not ready", "reason": "the spool is not open"}
    assert health.livez().status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("HEAD", "/livez/", 200),
        ("GET", "/readyz", 503),
        ("POST", "/readyz", 405),
        ("GET", "/events", None),
        ("GET", "/", None),
    ],
)
def test_paths_and_verbs(method: str, path: str, status: int | None) -> None:
    """Health answers GET and HEAD on its two paths, and leaves the others alone."""
    reply = Health(clock=HandClock(1_000_000)).reply(method.encode(), path.encode())
    assert (reply.status if reply else None) == status
