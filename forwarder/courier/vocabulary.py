"""Courier's words: types, statuses, reasons' neighbours, and what each of them is called abroad.

Every list here is open: Courier may add to it, and what is unknown passes through by rule.
Sources: Courier's documentation of outbound webhooks, the enum of its OpenAPI description, and the
names its own RudderStack and Segment integrations use.
"""

import re
from types import MappingProxyType

_SEPARATORS = re.compile(r"[:_.-]+")

MESSAGE_UPDATED = "message:updated"
AUDIENCE_MATCHED = "audiences:user:matched"
AUDIENCE_UNMATCHED = "audiences:user:unmatched"
AUDIENCES_CALCULATED = "audiences:calculated"
AUDIENCES_USER_FAMILY = "audiences:user:"

STATUSES = (
    "CANCELED",
    "CLICKED",
    "DELAYED",
    "DELIVERED",
    "DIGESTED",
    "ENQUEUED",
    "FILTERED",
    "OPENED",
    "ROUTED",
    "SENT",
    "SIMULATED",
    "THROTTLED",
    "UNDELIVERABLE",
    "UNMAPPED",
    "UNROUTABLE",
)

# The field of `data` and of a provider's entry that says when the status was reached.
TIME_FIELDS = MappingProxyType(
    {"ENQUEUED": "enqueued", "SENT": "sent", "DELIVERED": "delivered", "OPENED": "opened", "CLICKED": "clicked"},
)

# Courier exists since 2019; what claims to be older, or is after this century, is no event time.
TIME_MS_MIN = 1_262_304_000_000  # 2010-01-01
TIME_MS_END = 4_102_444_800_000  # 2100-01-01

NATIVE_STATUSES = frozenset({"SENT", "DELIVERED", "OPENED", "CLICKED", "UNDELIVERABLE", "UNROUTABLE"})

# Our names for what is no message; the first two are Courier's own.
TYPE_NAMES = MappingProxyType(
    {
        AUDIENCE_MATCHED: "Audience User Matched",
        AUDIENCE_UNMATCHED: "Audience User Unmatched",
        "audiences:updated": "Audience Updated",
        AUDIENCES_CALCULATED: "Audience Calculated",
        "notification:submitted": "Notification Submitted",
        "notification:submission_canceled": "Notification Submission Canceled",
        "notification:published": "Notification Published",
    },
)

CHANNEL_OF_PROVIDER = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "aws-ses",
                "gmail",
                "mailersend",
                "mailgun",
                "mailjet",
                "mailjet-email",
                "mandrill",
                "msft-graph",
                "nylas",
                "outlook",
                "postmark",
                "resend",
                "sendgrid",
                "smtp",
                "sparkpost",
            ),
            "email",
        ),
        **dict.fromkeys(
            (
                "46elks",
                "africastalking",
                "africastalking-sms",
                "attentive-sms",
                "aws-sns",
                "clicksend",
                "gatewayapi-sms",
                "messagebird",
                "messagebird-sms",
                "messagemedia-sms",
                "nexmo",
                "plivo",
                "sinch-sms",
                "smscentral",
                "telnyx",
                "textus",
                "twilio",
                "vonage",
            ),
            "sms",
        ),
        **dict.fromkeys(
            (
                "airship",
                "apn",
                "beamer",
                "expo",
                "firebase-fcm",
                "magicbell",
                "ntfy",
                "onesignal-push",
                "pushbullet",
                "pusher",
                "pusher-beams",
                "splunk-on-call",
                "streamchat",
            ),
            "push",
        ),
        "courier": "inbox",
        "inbox": "inbox",
        **dict.fromkeys(
            (
                "chat-api",
                "discord",
                "facebook-messenger",
                "msteams",
                "slack",
                "stream-chat",
                "viber",
                "whatsapp",
                "wechat",
            ),
            "direct_message",
        ),
        "webhook": "webhook",
        "courier-webhook": "webhook",
    },
)


def message_name(status: str) -> str:
    """Return what a status is called: `Message ` and the status in title case (`Message Submission Failed`)."""
    return "Message " + " ".join(word.capitalize() for word in status.replace("_", " ").replace("-", " ").split())


def type_name(kind: str) -> str:
    """Return what an event that is no message is called: our name, else its type in title case (`Brand Renamed`)."""
    return TYPE_NAMES.get(kind) or " ".join(word.capitalize() for word in _SEPARATORS.split(kind) if word)


MESSAGE_NAMES = MappingProxyType({status: message_name(status) for status in STATUSES})
