"""Ids, addresses and times as they are found in payloads: what counts as one, and what does not.

Pure, and free of both vendors' shapes: every function takes a value that may be anything.
"""

import re
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from forwarder.courier.vocabulary import TIME_MS_END, TIME_MS_MIN
from forwarder.rudderstack.wire import number_text, visible

_EMAIL = re.compile(r"(?:mailto:)?[^\s@<>\"(),:;]+@[^\s@<>\"(),:;]+\.[^\s@<>\"(),:;.]+", re.IGNORECASE)
_NAMED_EMAIL = re.compile(r"[^<>]*<([^\s@<>]+@[^\s@<>]+\.[^\s@<>.]+)>")
_PHONE = re.compile(r"(?:tel:)?\+[0-9][0-9 ().-]{5,24}", re.IGNORECASE)
_PHONE_DIGITS_MIN, _PHONE_DIGITS_MAX = 7, 15  # E.164
_ADDRESS_CHARACTERS_MAX = 320  # RFC 5321: 64 + "@" + 255

_ISO_CHARACTERS_MAX = 40


def is_blank_id(text: str) -> bool:
    """Tell whether RudderStack's gateway would take this id for empty: nothing in it can be seen."""
    return not visible(text)


def id_text(value: Any) -> str:
    """Return an id as the text that is sent: text as it came, a number in decimal; "" when it is none or blank."""
    if isinstance(value, str):
        if value.isascii() and value.isprintable() and not value.isspace():  # nearly always
            return value
        return "" if is_blank_id(value) else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return number_text(value)


def email_in(value: Any) -> str:
    """Return the e-mail address that the value is, bare of `mailto:` and of a display name; "" when it is none."""
    if not isinstance(value, str) or "@" not in value or len(value) > _ADDRESS_CHARACTERS_MAX:
        return ""
    text = value.strip()
    if named := _NAMED_EMAIL.fullmatch(text):
        return named[1]
    if not _EMAIL.fullmatch(text):
        return ""
    return text[7:] if text[:7].lower() == "mailto:" else text


def phone_in(value: Any) -> str:
    """Return the telephone number in international form that the value is, "" when it is none.

    Digits without a plus are an id: nothing tells them from a number of the customer's own.
    """
    if not isinstance(value, str) or "+" not in value[:5] or not _PHONE.fullmatch(value.strip()):
        return ""
    digits = "".join(character for character in value if character.isdigit())
    return f"+{digits}" if _PHONE_DIGITS_MIN <= len(digits) <= _PHONE_DIGITS_MAX else ""


def pseudonym(*parts: str) -> str:
    """Return a printable id that is always the same for these parts (32 hexadecimal digits)."""
    text = "\x00".join(parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=b"anonymous").hexdigest()


def time_ms(value: Any) -> int | None:
    """Return a time in epoch milliseconds, None for what is none or cannot be an event's.

    Takes epoch milliseconds and seconds, as number or as text, and ISO 8601 (UTC unless it says
    otherwise). Nothing before 2010 or after 2099 is believed: zero is an absent time, not 1970.
    """
    if type(value) is int and TIME_MS_MIN <= value < TIME_MS_END:  # nearly always
        return value
    if isinstance(value, str):
        return _time_in_text(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if TIME_MS_MIN <= value < TIME_MS_END:
        return int(value)
    milliseconds = value * 1_000  # seconds and milliseconds cannot be mistaken for each other here
    return int(milliseconds) if TIME_MS_MIN <= milliseconds < TIME_MS_END else None


def _time_in_text(text: str) -> int | None:
    if not text or len(text) > _ISO_CHARACTERS_MAX:
        return None
    if text[0].isdecimal() and text.isascii() and text.replace(".", "", 1).isdecimal():
        return time_ms(float(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return time_ms(round(moment.timestamp() * 1_000))
