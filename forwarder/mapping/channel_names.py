"""What an event is called per channel: `Email Delivered`, `Push Notification Tapped`, `SMS Failed`.

Segment's Email and Mobile specs come first, the names of RudderStack's Customer.io source where those
have none, and for Courier's Inbox, which neither knows, names of the same pattern. What has no name
here keeps Courier's own (`Message Delivered`).
"""

import re
from types import MappingProxyType
from typing import Any

BOUNCED, COMPLAINED, DROPPED, FAILED = "bounced", "complained", "dropped", "failed"

_MESSENGERS = MappingProxyType(
    {
        "slack": "Slack",
        "msteams": "Teams",
        "ms_teams": "Teams",
        "whatsapp": "WhatsApp",
        "discord": "Discord",
        "facebook-messenger": "Messenger",
        "viber": "Viber",
    },
)


def _messenger(label: str) -> dict[str, str]:
    return {
        "SENT": f"{label} Message Sent",
        "DELIVERED": f"{label} Message Delivered",
        "OPENED": f"{label} Message Opened",
        "CLICKED": f"{label} Message Link Clicked",
        BOUNCED: f"{label} Message Failed",
        DROPPED: f"{label} Message Failed",
        FAILED: f"{label} Message Failed",
    }


NAMES = MappingProxyType(
    {
        "email": {
            "SENT": "Email Sent",
            "DELIVERED": "Email Delivered",
            "OPENED": "Email Opened",
            "CLICKED": "Email Link Clicked",
            BOUNCED: "Email Bounced",
            COMPLAINED: "Email Marked as Spam",
            DROPPED: "Email Dropped",
            FAILED: "Email Failed",
        },
        "sms": {
            "SENT": "SMS Sent",
            "DELIVERED": "SMS Delivered",
            "CLICKED": "SMS Link Clicked",
            BOUNCED: "SMS Bounced",
            DROPPED: "SMS Failed",
            FAILED: "SMS Failed",
        },
        "push": {
            "SENT": "Push Sent",
            "DELIVERED": "Push Notification Received",
            "OPENED": "Push Notification Tapped",
            "CLICKED": "Push Notification Tapped",
            BOUNCED: "Push Notification Bounced",
            DROPPED: "Push Dropped",
            FAILED: "Push Failed",
        },
        "inbox": {
            **_messenger("Inbox"),
            "CLICKED": "Inbox Message Clicked",
        },
        "webhook": _messenger("Webhook"),
        **{label: _messenger(label) for label in sorted(set(_MESSENGERS.values()))},
    },
)

ALL_NAMES = frozenset(name for names in NAMES.values() for name in names.values())

# Reasons of Courier's that say that nothing was handed to a provider, on purpose.
_DROPPED_REASONS = frozenset({"UNSUBSCRIBED", "OPT_IN_REQUIRED", "FILTERED"})

# Only the provider's words tell a complaint; "rejected as spam" is a bounce, not a reader's report.
_COMPLAINT = re.compile(r"spam[ _-]?report|complain|report\w* .{0,40}as (?:spam|junk)|marked .{0,20}as (?:spam|junk)")
_BOUNCE = re.compile(
    r"bounc|\b55[0-9][ -]|\b5\.[0-9]\.[0-9]{1,3}\b|mailbox (?:is )?(?:full|unavailable|does not exist|not found)"
    r"|user unknown|no such (?:user|recipient)|does not exist|invalid (?:recipient|address|email|phone|number|to )"
    r"|bad ?device ?token|not[ -]?registered|unregistered|device ?token ?not ?for ?topic|invalid ?registration"
    r"|unreachable destination|unknown destination|landline",
)
_ERROR_CHARACTERS_MAX = 1_024


def channel_name(*, status: str, channel: str, provider: str, outcome: str) -> str:
    """Return the event's name on its channel, "" when there is none for it.

    `outcome` is what `undeliverable` said, and counts for that status alone.
    """
    names = NAMES.get(_label(channel, provider))
    if not names:
        return ""
    return names.get(outcome if status == "UNDELIVERABLE" else status, "")


def undeliverable(*, channel: str, reason: str, errors: tuple[Any, ...]) -> str:
    """Return why nothing arrived: bounced, complained (e-mail alone), dropped on purpose, or failed.

    Courier's reason decides where it says it; older events give `PROVIDER_ERROR` and leave it to
    the provider's words.
    """
    if reason == "BOUNCED":
        return BOUNCED
    if reason in _DROPPED_REASONS:
        return DROPPED
    text = " ".join(error[:_ERROR_CHARACTERS_MAX] for error in errors if isinstance(error, str)).lower()
    if channel == "email" and _COMPLAINT.search(text):
        return COMPLAINED
    return BOUNCED if _BOUNCE.search(text) else FAILED


def _label(channel: str, provider: str) -> str:
    if channel != "direct_message":
        return channel
    return _MESSENGERS.get(provider, "")
