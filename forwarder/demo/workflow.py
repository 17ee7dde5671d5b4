"""A seeded stream of Courier's workflow events: messages that live and end, users that join audiences. Pure.

Bodies have the documented shapes (Courier: webhooks, messages); with each comes what must become of it
under the names of Courier's own integration. No two events of one stream are equal.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from forwarder.demo.facts import Facts, Key, Sighting

Json = dict[str, Any]

# What Courier's own integration exports, and under which name.
NATIVE_NAMES = {
    "SENT": "Message Sent",
    "DELIVERED": "Message Delivered",
    "OPENED": "Message Opened",
    "CLICKED": "Message Clicked",
    "UNDELIVERABLE": "Message Undeliverable",
    "UNROUTABLE": "Message Unroutable",
}
AUDIENCE_NAMES = {
    "audiences:user:matched": "Audience User Matched",
    "audiences:user:unmatched": "Audience User Unmatched",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One way to reach people, as providers show it, and how far messages get there.

    `path` are the statuses after SENT with the chance of each, given the one before.
    """

    provider: str
    entry: Json
    path: tuple[tuple[str, float], ...]


CHANNELS = (
    Channel(
        provider="sendgrid",
        entry={"key": "email:sendgrid", "name": "SendGrid", "template": "b520ea75-df03-40b4-9981-2a1a16e340d5"},
        path=(("DELIVERED", 0.94), ("OPENED", 0.6), ("CLICKED", 0.4)),
    ),
    Channel(
        provider="firebase-fcm",
        entry={"key": "push:firebase-fcm", "name": "Firebase FCM"},
        path=(("DELIVERED", 0.9), ("CLICKED", 0.3)),
    ),
    Channel(provider="twilio", entry={"key": "sms:twilio", "name": "Twilio"}, path=(("DELIVERED", 0.8),)),
    Channel(provider="courier", entry={"key": "inbox:courier", "name": "Courier Inbox"}, path=(("OPENED", 0.7),)),
    Channel(provider="slack", entry={"key": "direct_message:slack", "name": "Slack"}, path=(("DELIVERED", 0.99),)),
)
TEMPLATES = ("20K063R1B72GH8GQNEHPN093CBQM", "4R6NJ6Y2AVYXNCY6ZK6K3CP9NVVD", "NNV3X3SV10TNZA2N82C8N5DGRB5S")
AUDIENCES = ("vip-eu", "backend-engineers", "trial-ends-soon")
# Milliseconds after the status before, at pace 1.
_STEP_MS = {"SENT": (60, 1_500), "DELIVERED": (200, 3_000), "OPENED": (800, 12_000), "CLICKED": (500, 6_000)}
_ENDED_EARLY = 0.06  # share of messages that end before anything is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowEvent:
    """One webhook: its raw body, when Courier would post it, and what must become of it."""

    body: bytes
    type: str
    status: str  # "" for audience events
    at_ms: int
    facts: Facts


class Workflow:
    """Make events. The same seed makes the same events, but for the times that are asked for."""

    def __init__(self, *, seed: int, users: int = 200, pace: float = 1.0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a repeatable stream, not a secret
        self._users = users
        self._pace = pace  # below 1: messages live faster
        self._made = 0

    def message(self, now_ms: int) -> Sequence[WorkflowEvent]:
        """Return the whole life of one message that is enqueued now, in the order of its events' times."""
        data = self._enqueued(now_ms)
        events = [_message_event(data, now_ms)]
        if self._random.random() < _ENDED_EARLY:
            return [*events, self._ended_early(data, now_ms)]
        channel = self._random.choice(CHANNELS)
        at_ms = now_ms
        for status in self._path(channel):
            at_ms += self._step_ms(status)
            data = _advanced(data, channel, status, at_ms)
            events.append(_message_event(data, at_ms))
        if len(events) == 2 and channel.provider == "sendgrid":  # noqa: PLR2004 - enqueued and sent, no more
            events.append(_message_event(_bounced(data), at_ms))
        return events

    def sample(self, status: str, now_ms: int) -> WorkflowEvent:
        """Return one event of an e-mail that reached this status now. Any text is taken: the set is open."""
        data = self._enqueued(now_ms)
        path = ("SENT", "DELIVERED", "OPENED", "CLICKED")
        # A bounce comes after SENT; what Courier gave no time of its own is shown as it was enqueued.
        reached = path[: path.index(status) + 1] if status in path else path[: status == "UNDELIVERABLE"]
        for step in reached:
            data = _advanced(data, CHANNELS[0], step, now_ms)
        if status == "UNDELIVERABLE":
            data = _bounced(data)
        return _message_event(data | {"status": status}, now_ms)

    def audience(self, now_ms: int) -> WorkflowEvent:
        """Return a user's entry into an audience, or his leaving it."""
        kind = self._random.choice(tuple(AUDIENCE_NAMES))
        user, audience = self._user(), self._random.choice(AUDIENCES)
        self._made += 1
        verb = "true" if kind == "audiences:user:matched" else "false"
        data: Json = {
            "audience_id": audience,
            "audience_version": self._made,
            "reason": f"EQ('plan', 'vip') => {verb}",
            "user_id": user,
        }
        key = ("audience", audience, str(self._made), user)
        return WorkflowEvent(
            body=orjson.dumps({"type": kind, "data": data}),
            type=kind,
            status="",
            at_ms=now_ms,
            facts=Facts(key=key, name=AUDIENCE_NAMES[kind], user=user),
        )

    def _enqueued(self, now_ms: int) -> Json:
        self._made += 1
        user, template = self._user(), self._random.choice(TEMPLATES)
        data: Json = {
            "id": f"1-{now_ms // 1000:08x}-{self._random.getrandbits(64):016x}{self._made:08x}",
            "status": "ENQUEUED",
            "enqueued": now_ms,
            "event": template,
            "notification": template,
            "providers": [],
            "recipient": user,
        }
        # The newest samples have no recipientId; where an address was named, only it names the user.
        match self._made % 4:
            case 0:
                data |= {"recipient": f"{user}@example.com", "recipientId": user}
            case 1 | 2:
                data["recipientId"] = user
            case _:
                pass
        return data

    def _user(self) -> str:
        return f"user-{self._random.randrange(self._users):05d}"

    def _path(self, channel: Channel) -> Iterator[str]:
        yield "SENT"
        for status, chance in channel.path:
            if self._random.random() >= chance:
                return
            yield status

    def _step_ms(self, status: str) -> int:
        shortest, longest = _STEP_MS[status]
        return max(1, round(self._random.uniform(shortest, longest) * self._pace))

    def _ended_early(self, data: Json, now_ms: int) -> WorkflowEvent:
        if self._random.random() < 0.5:  # noqa: PLR2004 - one half
            end: Json = {"status": "UNROUTABLE", "error": "No providers added", "reason": "NO_PROVIDERS"}
        else:
            error = "Notification opted out by user"
            entry = {"error": error, "status": "UNDELIVERABLE"}
            end = {"status": "UNDELIVERABLE", "error": error, "reason": "UNSUBSCRIBED", "providers": [entry]}
        return _message_event(data | end, now_ms)


def seen(event: Json) -> Sighting:
    """Read a track call as the data plane stored it."""
    properties = event["properties"]
    stamp = str(event.get("timestamp") or event.get("originalTimestamp"))
    return Sighting(
        key=_key(properties),
        name=event["event"],
        user=str(event.get("userId") or ""),
        at_ms=round(datetime.fromisoformat(stamp).timestamp() * 1000) if "audience_id" not in properties else None,
        message_id=event["messageId"],
    )


def _key(data: Json) -> Key:
    if "audience_id" in data:
        return ("audience", data["audience_id"], str(data["audience_version"]), data["user_id"])
    return ("message", data["id"], data["status"])


def _message_event(data: Json, at_ms: int) -> WorkflowEvent:
    user, status = data.get("recipientId") or data["recipient"], data["status"]
    # A status without a time of its own took place at the newest time present.
    happened_ms = data.get(status.lower()) or max(value for value in data.values() if isinstance(value, int))
    return WorkflowEvent(
        body=orjson.dumps({"type": "message:updated", "data": data}),
        type="message:updated",
        status=status,
        at_ms=at_ms,
        facts=Facts(key=_key(data), name=NATIVE_NAMES.get(status), user=user, at_ms=happened_ms),
    )


def _advanced(data: Json, channel: Channel, status: str, at_ms: int) -> Json:
    before = data["providers"][0] if data["providers"] else {"provider": channel.provider, "channel": channel.entry}
    times = {status.lower(): at_ms}
    return data | times | {"status": status, "providers": [before | times | {"status": status}]}


def _bounced(data: Json) -> Json:
    error = "550 5.1.1 The email account that you tried to reach does not exist"
    entry = data["providers"][0] | {"status": "UNDELIVERABLE", "error": error}
    return data | {"status": "UNDELIVERABLE", "error": error, "reason": "BOUNCED", "providers": [entry]}
