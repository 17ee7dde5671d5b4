"""A seeded stream of RudderStack and Segment calls: identify, track, group, and what Courier has no use for. Pure.

With each comes what must happen at Courier. Which event names are linked to what is `LINKS`, the same
that the demo pins for the daemon.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from forwarder.demo.facts import Facts, Key, Sighting

Json = dict[str, Any]

# Event name → automation.
LINKS = {"Order Completed": "order-thanks", "Trial Started": "trial-welcome"}
LINKS_TOML = "\n".join(f'[[link]]\nevent = "{event}"\ntarget = "{target}"\n' for event, target in LINKS.items())
UNLINKED = ("Product Viewed",)
ENDPOINTS = ("/v1/batch", "/inbound/rudderstack", "/inbound/segment")
_MARK = "demo_id"
_USERS = 100
INVOKE = "POST /automations/{template}/invoke"
AD_HOC = "POST /automations/invoke"
MERGE = "POST /profiles/{user}"
JOIN = "PUT /users/{user}/tenants/{tenant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Something that happened at Courier. `user` is "" where no user is concerned."""

    user: str
    operation: str  # "POST /profiles/{user}"; the pattern, not the path
    params: Mapping[str, str]
    body: Any
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One event, the endpoint it is posted to, and what must become of it."""

    endpoint: str
    event: Json
    facts: Facts

    def body(self) -> bytes:
        """Return the request's body as this endpoint's senders write it."""
        return orjson.dumps({"batch": [self.event]} if self.endpoint == "/v1/batch" else self.event)


class CallStream:
    """Make calls. The same seed makes the same calls, but for the times that are asked for."""

    def __init__(self, *, seed: int, endpoints: Sequence[str] = ENDPOINTS) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a repeatable stream, not a secret
        self._endpoints = endpoints
        self._made = 0

    def call(self, now_ms: int) -> Call:
        """Return the next call of the mix."""
        make = self._random.choices(
            (self.identify, self.linked, self.ad_hoc, self.group, self.unlinked, self.page),
            weights=(25, 35, 8, 12, 8, 12),
        )[0]
        return make(now_ms)

    def identify(self, now_ms: int, user: str | None = None) -> Call:
        """Return an identify: the profile is merged."""
        event = self._event("identify", now_ms, user)
        traits = {
            "email": f"{event['userId']}@example.com",
            "plan": self._random.choice(("free", "pro")),
            _MARK: event["messageId"],
        }
        return self._made_call(event | {"context": {"traits": traits}, "traits": traits}, MERGE)

    def linked(self, now_ms: int, user: str | None = None) -> Call:
        """Return a track whose name is linked: the automation is invoked."""
        event = self._event("track", now_ms, user)
        properties = {"total": self._random.randrange(5, 500), _MARK: event["messageId"]}
        return self._made_call(event | {"event": self._random.choice(tuple(LINKS)), "properties": properties}, INVOKE)

    def ad_hoc(self, now_ms: int, user: str | None = None) -> Call:
        """Return a track that brings its automation's steps along."""
        event = self._event("track", now_ms, user)
        automation = {
            "steps": [{"action": "send", "template": "receipt", "recipient": event["userId"]}],
            "data": {_MARK: event["messageId"]},
        }
        properties = {"courier": {"automation": automation}}
        return self._made_call(event | {"event": "Receipt Requested", "properties": properties}, AD_HOC)

    def group(self, now_ms: int, user: str | None = None) -> Call:
        """Return a group: the tenant is written and the user, a new one each time, becomes its member."""
        event = self._event("group", now_ms, user or f"member-{self._made:06d}")
        group_id = f"company-{self._random.randrange(10)}"
        traits = {"name": f"Company {group_id[-1]}", "employees": self._random.randrange(5, 5000)}
        made = event | {"groupId": group_id, "traits": traits}
        return self._made_call(made, JOIN, ("group", event["userId"], group_id))

    def unlinked(self, now_ms: int, user: str | None = None) -> Call:
        """Return a track that nothing is linked to: unmapped."""
        event = self._event("track", now_ms, user)
        return self._made_call(event | {"event": UNLINKED[0], "properties": {_MARK: event["messageId"]}}, None)

    def page(self, now_ms: int, user: str | None = None) -> Call:
        """Return a page call: filtered."""
        return self._made_call(self._event("page", now_ms, user) | {"name": "Home", "properties": {}}, None)

    def _event(self, kind: str, now_ms: int, user: str | None) -> Json:
        self._made += 1
        at = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "type": kind,
            "userId": user or f"customer-{self._random.randrange(_USERS):04d}",
            "messageId": f"call-{self._random.getrandbits(64):016x}-{self._made:06d}",
            "originalTimestamp": at,
            "sentAt": at,
            "channel": "server",
            "context": {"library": {"name": "demo", "version": "1.0.0"}},
            "integrations": {"All": True},
        }

    def _made_call(self, event: Json, operation: str | None, key: Key | None = None) -> Call:
        facts = Facts(key=key or ("call", event["messageId"]), name=operation, user=event["userId"])
        return Call(endpoint=self._random.choice(self._endpoints), event=event, facts=facts)


def happened(effect: Effect) -> Sighting | None:
    """Read an effect at Courier; None when it is a part of another one (a group's tenant)."""
    key = _key(effect)
    if key is None:
        return None
    return Sighting(key=key, name=effect.operation, user=effect.user, at_ms=None, message_id="")


def _key(effect: Effect) -> Key | None:
    body = effect.body if isinstance(effect.body, dict) else {}
    match effect.operation:
        case operation if operation == JOIN:
            return ("group", effect.params["user"], effect.params["tenant"])
        case operation if operation == MERGE:
            mark = body.get("profile", {}).get(_MARK)
        case _:
            mark = (body.get("data") or {}).get(_MARK)
    return ("call", mark) if isinstance(mark, str) else None
