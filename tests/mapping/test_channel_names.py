"""Names per channel."""

import pytest

from forwarder.mapping.channel_names import channel_name, undeliverable


@pytest.mark.parametrize(
    ("channel", "status", "name"),
    [
        ("email", "SENT", "Email Sent"),
        ("email", "DELIVERED", "Email Delivered"),
        ("email", "OPENED", "Email Opened"),
        ("email", "CLICKED", "Email Link Clicked"),
        ("email", "ROUTED", ""),
        ("sms", "SENT", "SMS Sent"),
        ("sms", "OPENED", ""),
        ("sms", "CLICKED", "SMS Link Clicked"),
        ("push", "SENT", "Push Sent"),
        ("push", "DELIVERED", "Push Notification Received"),
        ("push", "OPENED", "Push Notification Tapped"),
        ("push", "CLICKED", "Push Notification Tapped"),
        ("inbox", "OPENED", "Inbox Message Opened"),
        ("inbox", "CLICKED", "Inbox Message Clicked"),
        ("webhook", "SENT", "Webhook Message Sent"),
        ("carrier_pigeon", "SENT", ""),
    ],
)
def test_names_of_a_channel(channel: str, status: str, name: str) -> None:
    """Each channel has the names of its specification, and none where it has no word."""
    assert channel_name(status=status, channel=channel, provider="", outcome="") == name


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("slack", "Slack Message Sent"),
        ("msteams", "Teams Message Sent"),
        ("whatsapp", "WhatsApp Message Sent"),
        ("x", ""),
    ],
)
def test_direct_messages_are_named_by_their_messenger(provider: str, name: str) -> None:
    """A direct message has its messenger's name, or none when it is unknown."""
    assert channel_name(status="SENT", channel="direct_message", provider=provider, outcome="") == name


@pytest.mark.parametrize(
    ("channel", "reason", "error", "name"),
    [
        ("email", "BOUNCED", "", "Email Bounced"),
        ("email", "BOUNCED", "reported as spam", "Email Bounced"),
        ("email", "PROVIDER_ERROR", "bounce: mailbox full", "Email Bounced"),
        ("email", "PROVIDER_ERROR", "550 5.7.1 rejected as spam", "Email Bounced"),
        ("email", "PROVIDER_ERROR", "spamreport", "Email Marked as Spam"),
        ("email", "PROVIDER_ERROR", "Recipient reported the message as spam", "Email Marked as Spam"),
        ("email", "PROVIDER_ERROR", "Complaint received", "Email Marked as Spam"),
        ("email", "UNSUBSCRIBED", "", "Email Dropped"),
        ("email", "FAILED", "Request timed out", "Email Failed"),
        ("email", "", "", "Email Failed"),
        ("sms", "PROVIDER_ERROR", "spam report", "SMS Failed"),
        ("sms", "PROVIDER_ERROR", "Invalid phone number", "SMS Bounced"),
        ("sms", "QUOTA_EXCEEDED", "Quota exceeded", "SMS Failed"),
        ("push", "PROVIDER_ERROR", "BadDeviceToken", "Push Notification Bounced"),
        ("push", "PROVIDER_ERROR", "registration-token-not-registered", "Push Notification Bounced"),
        ("push", "OPT_IN_REQUIRED", "", "Push Dropped"),
        ("push", "FAILED", "timeout", "Push Failed"),
    ],
)
def test_why_a_message_did_not_arrive(channel: str, reason: str, error: str, name: str) -> None:
    """Courier's reason decides, the provider's words where it leaves it to them."""
    outcome = undeliverable(channel=channel, reason=reason, errors=(error, None, 7))
    assert channel_name(status="UNDELIVERABLE", channel=channel, provider="", outcome=outcome) == name
