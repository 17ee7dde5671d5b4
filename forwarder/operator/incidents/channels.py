"""How an alert travels: a web address in the form that its host understands, or a message through Courier."""

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from forwarder import __version__
from forwarder.courier.client import CourierClient
from forwarder.errors import ForwarderError, NoAnswer
from forwarder.model import HttpRequest
from forwarder.operator.incidents.alerts import Alert
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.text import moment
from forwarder.ports import Transport

TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 4_096
_FORM_NAMES: Final = {"json": "JSON", "slack": "Slack", "teams": "Teams"}
_OK: Final = range(200, 300)
_MAY_BE_UNDER_WAY: Final = (408, 409, 425, 429)  # or was not looked at: nothing is kept under the key
_SLACK: Final = ("hooks.slack.com", "hooks.slack-gov.com")
# Workflows (Power Automate), and the connectors of before them.
# https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook
_TEAMS: Final = (".webhook.office.com", ".logic.azure.com", ".api.powerplatform.com")
_TEAMS_REFUSED: Final = b"Webhook message delivery failed"  # a connector says so with 200


class AlertFailed(ForwarderError):
    """The alert did not arrive; the text says why and holds neither address nor answer."""


class Channel(Protocol):
    """One way to tell people."""

    @property
    def kind(self) -> str:
        """One of `telemetry.metrics.ALERT_CHANNELS`."""

    @property
    def name(self) -> str:
        """Which one it is, over restarts; stands with the incidents that it was told of."""

    @property
    def where(self) -> str:
        """Say where it leads, without a secret."""

    async def send(self, alert: Alert) -> str:
        """Tell it; return the message's id where there is one, else "". Raises `AlertFailed`."""


class UrlChannel:
    """`FORWARDER_ALERT_URL`: a POST of JSON. The whole address is a secret: who knows it may write to the channel."""

    kind = name = "url"

    def __init__(self, transport: Transport, url: str) -> None:
        self._transport = transport
        self.url = url

    @property
    def where(self) -> str:
        """Name the host and the form alone."""
        return f"FORWARDER_ALERT_URL: {urlsplit(self.url).hostname}, as {_FORM_NAMES[form_of(self.url)]}"

    def __repr__(self) -> str:
        """Show what may be seen."""
        return f"UrlChannel({self.where})"

    async def send(self, alert: Alert) -> str:
        """Post it; see `Channel`."""
        request = HttpRequest(
            method="POST",
            url=self.url,
            headers={"Content-Type": "application/json"},
            body=json.dumps(_FORMS[form_of(self.url)](alert)).encode(),
            timeout_s=TIMEOUT_S,
            answer_bytes_max=_ANSWER_BYTES_MAX,
        )
        try:
            response = await self._transport.exchange(request)
        except NoAnswer as error:
            raise AlertFailed(str(error)) from None
        if response.status not in _OK or _TEAMS_REFUSED in response.body:
            raise AlertFailed(f"answered {response.status}")
        return ""


@dataclass(slots=True, kw_only=True)
class CourierChannel:
    """`FORWARDER_ALERT_TEMPLATE`: a message through Courier to one recipient.

    One call for each recipient: its answer then names the message, by which its own events are told from others'.
    https://www.courier.com/docs/api-reference/send/send-a-message
    """

    client: CourierClient
    template: str
    recipient: str
    kind: str = "courier"
    _suffix: str = ""  # of the key

    @property
    def name(self) -> str:
        """Return which it is."""
        return f"courier:{self.recipient}"

    @property
    def where(self) -> str:
        """Name template and recipient."""
        return f"FORWARDER_ALERT_TEMPLATE: {self.template} through Courier to {self.recipient}"

    async def send(self, alert: Alert) -> str:
        """Send it; see `Channel`.

        An attempt after one without an answer has the same key, so that the message arrives once; one after a refusal
        has another, for Courier would repeat the refusal as long as it knows the key.
        """
        message = {"to": to(self.recipient), "template": self.template, "data": as_json(alert)}
        body = json.dumps({"message": message}).encode()
        try:
            response = await self.client.call("POST /send", body, idempotency_key=self._key(alert))
        except NoAnswer as error:
            raise AlertFailed(str(error)) from None
        if response.status not in _OK:
            if response.status not in _MAY_BE_UNDER_WAY:
                self._suffix = secrets.token_hex(4)
            raise AlertFailed(f"answered {response.status}")
        self._suffix = ""
        try:
            return str(json.loads(response.body)["requestId"])
        except (ValueError, TypeError, KeyError):
            raise AlertFailed(f"answered {response.status} without a request id") from None

    def _key(self, alert: Alert) -> str:
        news = [(one.key, one.began_ms, one.ended_ms) for one in (*alert.began, *alert.ended)]
        told = (self.template, self.recipient, alert.instance, news, alert.at_ms if alert.is_test else 0, self._suffix)
        return hashlib.sha256(repr(told).encode()).hexdigest()


def to(recipient: str) -> dict[str, str]:
    """Return a recipient as Courier names it: an address with @ is an e-mail, anything else a user's id."""
    return {"email" if "@" in recipient else "user_id": recipient}


def form_of(url: str) -> str:
    """Return the form that the address's host understands: "slack", "teams", or "json"."""
    host = (urlsplit(url).hostname or "").casefold()
    if host in _SLACK:
        return "slack"
    return "teams" if host.endswith(_TEAMS) else "json"


def as_json(alert: Alert) -> dict[str, Any]:
    """Return it for programs; also what a template finds in `data`."""
    return {
        "source": "forwarder",
        "version": __version__,
        "instance": alert.instance,
        "at": moment(alert.at_ms),
        "is_test": alert.is_test,
        "summary": alert.summary,
        "text": "\n".join(alert.lines()),
        "began": [_incident(one, alert) for one in alert.began],
        "ended": [_incident(one, alert) for one in alert.ended],
    }


def _incident(one: Incident, alert: Alert) -> dict[str, Any]:
    more = {"words": one.words, "events_delayed": one.delayed, "events_dead": one.dead}
    return one.facts(now_ms=alert.at_ms) | more


def _slack(alert: Alert) -> dict[str, Any]:
    # https://docs.slack.dev/messaging/formatting-message-text: three characters are control characters.
    told = "\n".join([f"*{alert.summary}*", *(f"• {line}" for line in alert.lines())])
    escaped = told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": f"{':red_circle:' if alert.began else ':white_check_mark:'} {escaped}"}


def _teams(alert: Alert) -> dict[str, Any]:
    blocks: Sequence[dict[str, object]] = [
        {"type": "TextBlock", "text": alert.summary, "weight": "Bolder", "wrap": True},
        *({"type": "TextBlock", "text": line, "wrap": True} for line in alert.lines()),
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    content_type = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": content_type, "content": card}]}


_FORMS: Final[dict[str, Callable[[Alert], dict[str, Any]]]] = {"json": as_json, "slack": _slack, "teams": _teams}
