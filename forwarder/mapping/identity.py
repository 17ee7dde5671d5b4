"""Whom an event is about: a user's id, or a made-up one that is always the same. Pure.

An address is never an id: it is personal data and changes hands. It travels as a trait, and who is
known by it alone gets an `anonymousId` that is a hash of it.
"""

from typing import Any

import msgspec

from forwarder.courier import vocabulary
from forwarder.courier.event import CourierEvent
from forwarder.mapping.fields import email_in, id_text, phone_in, pseudonym

ANONYMOUS_PREFIX = "courier-"
USER_ID_TYPE = "courierUserId"  # of the entry in `context.externalId`

_MESSAGE_FIELDS = ("recipientId", "recipient")
_AUDIENCE_FIELDS = ("user_id",)
_OTHER_FIELDS = (*_MESSAGE_FIELDS, *_AUDIENCE_FIELDS)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the two ids is not empty; the addresses are empty when unknown."""

    user_id: str
    anonymous_id: str
    email: str
    phone: str

    @property
    def traits(self) -> dict[str, Any]:
        """What `context.traits` shall say of the user."""
        traits: dict[str, Any] = {"email": self.email} if self.email else {}
        if self.phone:
            traits["phone"] = self.phone
        return traits


def identity_of(event: CourierEvent, *, fallback: str) -> Identity:
    """Find the user: `recipientId`, else `recipient` (audiences: `user_id`), whichever is no address first.

    Without one the anonymous id is made of the address, else of the message, the template or the
    audience, else of `fallback`.
    """
    user_id = email = phone = ""
    for name in _fields(event.type):
        value = event.data.get(name)
        if value == user_id or not (text := id_text(value)) or text == user_id:
            continue
        is_address = False
        if "@" in text and (found := email_in(text)):
            email, is_address = email or found, True
        elif "+" in text and (found := phone_in(text)):
            phone, is_address = phone or found, True
        if not is_address and not user_id:
            user_id = text
    anonymous_id = "" if user_id else _anonymous_id(event, email, phone, fallback)
    return Identity(user_id=user_id, anonymous_id=anonymous_id, email=email, phone=phone)


def _fields(kind: str) -> tuple[str, ...]:
    if kind == vocabulary.MESSAGE_UPDATED:
        return _MESSAGE_FIELDS
    # `id` of a template or an audience is no user; unknown types may use either word.
    return _AUDIENCE_FIELDS if kind.startswith("audiences:") else _OTHER_FIELDS


def _anonymous_id(event: CourierEvent, email: str, phone: str, fallback: str) -> str:
    if email:
        # Providers do not tell upper from lower case, and neither may the hash.
        return ANONYMOUS_PREFIX + pseudonym("email", email.lower())
    if phone:
        return ANONYMOUS_PREFIX + pseudonym("phone", phone)
    subject = id_text(event.data.get("id")) or id_text(event.data.get("audience_id"))
    family = event.type.partition(":")[0]
    return ANONYMOUS_PREFIX + pseudonym(family if subject else "event", subject or fallback)
