"""Where in a webhook the channel, the status and the provider are found."""

import json
from typing import Any

import pytest

from forwarder.courier.event import channel_key, channel_of, event_name, read
from forwarder.errors import Unmappable


def _read(**data: Any) -> Any:
    return read(json.dumps({"type": "message:updated", "data": data}).encode())


@pytest.mark.parametrize(
    ("entry", "channel"),
    [
        pytest.param({"channel": {"key": "direct_message:slack"}}, "direct_message", id="before the colon"),
        pytest.param(
            {"channel": {"key": "Email "}, "provider": "twilio"}, "email", id="a bare key wins over the provider"
        ),
        pytest.param({"channel": "sms:twilio"}, "sms", id="a key that is no object"),
        pytest.param({"provider": "twilio"}, "sms", id="by the provider"),
        pytest.param({"provider": "courier", "channel": {"name": "Inbox"}}, "inbox", id="a channel without key"),
        pytest.param({"provider": "acme-pigeon"}, "", id="an unknown provider"),
        pytest.param({"provider": 7, "channel": {"key": 7}}, "", id="numbers"),
        pytest.param({}, "", id="an opt-out has neither"),
    ],
)
def test_the_channel_of_an_entry(entry: dict[str, Any], channel: str) -> None:
    """The channel is the key's first part, else what the provider is known for, else unknown."""
    assert channel_of(entry) == channel


def test_the_key_is_as_it_came() -> None:
    """The whole key stays available beside the channel."""
    assert channel_key({"channel": {"key": "direct_message:slack"}}) == "direct_message:slack"


@pytest.mark.parametrize(
    ("providers", "provider"),
    [
        pytest.param(
            [{"provider": "a", "status": "UNDELIVERABLE"}, {"provider": "b", "status": "SENT"}], "b", id="status"
        ),
        pytest.param([{"provider": "b", "status": "sent"}, {"provider": "a", "status": "OPENED"}], "b", id="any case"),
        pytest.param(
            [{"provider": "b", "status": "SENT", "sent": 9}, {"provider": "a", "status": "SENT", "sent": 5}],
            "b",
            id="the latest of several",
        ),
        pytest.param(
            [{"provider": "a", "status": "SENT"}, {"provider": "b", "status": "SENT", "sent": "x"}],
            "b",
            id="the last of several without times",
        ),
        pytest.param([{"provider": "a", "status": "CLICKED"}, {"provider": "b"}], "b", id="else the last"),
        pytest.param(["a", None, {"provider": "b"}], "b", id="what is no object is passed over"),
        pytest.param({"provider": "a"}, None, id="no list"),
        pytest.param([], None, id="none"),
    ],
)
def test_which_provider_decides(providers: Any, provider: str | None) -> None:
    """The entry that brought the message to its status says which channel the event is about."""
    assert _read(status="SENT", providers=providers).deciding_provider().get("provider") == provider


def test_of_several_without_a_time_of_their_own_the_last_decides() -> None:
    """A status that has no time field falls back to the order of the entries."""
    entries = [{"provider": "a", "status": "ROUTED"}, {"provider": "b", "status": "ROUTED"}]
    assert _read(status="ROUTED", providers=entries).deciding_provider() == entries[1]


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("message:updated", "SENT", "Message Sent"),
        ("message:updated", "SUBMISSION_FAILED", "Message Submission Failed"),
        ("message:updated", "", "message:updated"),
        ("audiences:user:unmatched", "", "Audience User Unmatched"),
        ("workspace:renamed", "", "workspace:renamed"),
    ],
)
def test_what_people_call_it(kind: str, status: str, name: str) -> None:
    """Messages are named by their status, the rest by our name for the type or by the type."""
    assert event_name(kind, status) == name


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"[]", "not a JSON object"),
        (b'{"data":{}}', "`type` is missing"),
        (b'{"type":" ","data":{}}', "`type` is missing"),
        (b'{"type":1,"data":{}}', "`type` is missing"),
        (b'{"type":"a"}', "`data` is missing"),
        (b'{"type":"a","data":[]}', "`data` is missing"),
    ],
)
def test_what_is_no_event(payload: bytes, reason: str) -> None:
    """Without a type and an object of data there is no event, and the reason says which is missing."""
    with pytest.raises(Unmappable, match=reason):
        read(payload)
