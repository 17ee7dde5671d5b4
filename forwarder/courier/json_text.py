"""What decides whether bytes are JSON: one decoder for everything that comes from Courier.

msgspec does the work (RFC 8259, exact integers, the last of duplicate keys wins). For the one thing
it refuses although the grammar allows it, a lone surrogate in an escape, Python's own decoder steps
in, with the surrogate replaced by U+FFFD as RudderStack's gateway does. NaN, Infinity, broken UTF-8
and numbers beyond a double are not taken.
"""

import json
import re
from collections.abc import Callable
from math import isinf
from typing import Any, NoReturn

import msgspec

from forwarder.errors import Unmappable
from forwarder.nesting import TOO_DEEP, is_too_deep

_fast_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_STRIDE = 100
_THREE_DIGITS = re.compile(rb"[0-9]{3}")


def decode(payload: bytes) -> Any:
    """Return the JSON value; raises `Unmappable` with what is wrong, never with a value out of it."""
    if is_too_deep(payload):  # before a decoder recurses: how deep it can differs from Python to Python
        raise Unmappable(TOO_DEEP)
    try:
        value = _fast_decode(payload)
    except UnicodeDecodeError:
        raise Unmappable("not UTF-8") from None
    except msgspec.MsgspecError:
        return _decode_slowly(payload)
    refuse_huge(value, payload)
    return value


def refuse_huge(value: Any, text: bytes) -> None:
    """Raise `Unmappable` for an integer beyond a double, on which the data plane's processor gives up a whole batch."""
    # It has 309 digits at least: three looks in a row, a hundred bytes apart, meet it.
    if _THREE_DIGITS.search(text[::_STRIDE]) and _holds_huge_integer(value):
        raise Unmappable("a number is out of range")


def is_plain(payload: bytes) -> bool:
    """Tell whether bytes that are JSON of good form are certainly taken by `decode`, whatever their values are."""
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
    return _THREE_DIGITS.search(payload[::_STRIDE]) is None


def _decode_slowly(payload: bytes) -> Any:
    try:
        value = json.loads(payload.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise Unmappable("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unmappable(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # an integer of more than 4,300 digits
        raise Unmappable("a number is out of range") from None
    if _holds_huge_integer(value):
        raise Unmappable("a number is out of range")
    return _without_surrogates(value)


def _refuse_constant(name: str) -> NoReturn:
    raise Unmappable(f"not JSON: {name} is no JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise Unmappable("a number is out of range")
    return number


def _holds_huge_integer(value: Any) -> bool:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as members:
                waiting.extend(members.values())
            case list() as items:
                waiting.extend(items)
            case int() as number:
                try:
                    float(number)
                except OverflowError:
                    return True
            case _:
                pass
    return False


def _without_surrogates(value: Any) -> Any:
    # Depth is bounded by what the decoder before took.
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value
