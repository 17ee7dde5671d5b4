"""Read one event of a request's body, or its brackets alone, in its sender's own bytes.

The bytes are cut, not decoded and encoded again, so that no number loses a digit on the way. JSON is read as kindly as
RudderStack's gateway reads it: broken UTF-8 and lone surrogates become U+FFFD, the last of duplicate keys wins, a byte
order mark in front is skipped; NaN and Infinity are no JSON. An object that is nested too deeply to be read, or holds a
number that no double can hold, is an element all the same: it is kept unread. What an event must look like is not
judged here.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from forwarder.errors import ForwarderError

# A bound for memory and time, not a rule: a body of the default limit holds about as many of the smallest real events.
ELEMENTS_MAX = 50_000
# What is larger and not quite JSON is cut by its brackets, some of them at a time, rather than read as a whole.
AT_ONCE_BYTES_MAX = 65_536

BLANKS = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# A quote that ends nowhere is a token, too: were it passed over, each one behind it would search the rest again.
_TOKEN = re.compile(rb'(?:[^"\[\]{},]++|' + _TEXT + rb')*+([\[\]{},"]|)', re.DOTALL)
# What stands between the brackets of an item is passed over, with whole containers of some levels and so many parts;
# then comes a run of brackets, or a quote that ends nowhere. Bounded and possessive: nothing takes long or is retried.
_PART = rb'[^"\[\]{}]++|' + _TEXT
_FLAT = rb"[\[{](?:" + _PART + rb"){0,100}+[\]}]"
_NESTED = rb"[\[{](?:" + _PART + rb"|" + _FLAT + rb"){0,40}+[\]}]"
_INSIDE = re.compile(rb"(?:" + _PART + rb"|" + _NESTED + rb'){0,40}+([\[{]++|[\]}]++|"|)', re.DOTALL)
_SURROGATE = ("surrogate", "hex escape", "truncated")  # how the decoder calls a lone one
_TURNS_MAX = 256
_POSITION = re.compile(r" \(byte (\d+)\)")
_INTEGER_DIGITS_MAX = 4_300  # Python's own limit for turning text into an integer


class NotJson(ForwarderError):
    """The body is no JSON; the text says what is wrong and where, and quotes nothing."""


class TooManyElements(ForwarderError):
    """The request holds more events than one request may."""

    def __init__(self) -> None:
        super().__init__(f"more than {ELEMENTS_MAX} events in one request")


class Element(msgspec.Struct, frozen=True, gc=False):
    """One event: its own JSON, and the object that it is; `value` None when it cannot be read."""

    payload: bytes
    value: dict[str, Any] | None


_decode = msgspec.json.Decoder().decode
_pass_over = msgspec.json.Decoder(msgspec.Raw).decode


def element(raw: bytes) -> Element | None:
    """Read one JSON value; None when it is no object. Raises `NotJson`."""
    try:
        # What is no object is passed over, not made into objects: there may be millions of them in it.
        value = _decode(raw) if raw.startswith(b"{") else _pass_over(raw)
    except RecursionError:
        return _unread(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _read_kindly(raw, error)
    return Element(raw, value) if isinstance(value, dict) else None


def line(raw: bytes) -> Element | None:
    """Read one line; None when it is no JSON, or no object."""
    try:
        return element(raw)
    except NotJson:
        return None


def trimmed(body: bytes) -> bytes:
    """Return the body without a byte order mark and outer blanks; raises `NotJson` when nothing is left."""
    body = body.removeprefix(_BYTE_ORDER_MARK).strip(BLANKS)
    if not body:
        raise NotJson("the body is empty")
    return body


def forgive(raw: bytes, error: Exception) -> None:
    """Pass over what the strict decoder refused but the grammar, or the gateway, may allow; else raises `NotJson`.

    What is too large to be read in one go is forgiven what may be a lone surrogate: whoever reads its parts will see.
    """
    if len(raw) <= AT_ONCE_BYTES_MAX:
        _read_kindly(raw, error)
        return
    text = str(error)
    if not any(words in text for words in _SURROGATE):
        raise _not_json(raw, error, ValueError(_POSITION.sub("", text).rpartition(": ")[2]))


def items(body: bytes) -> Iterator[bytes | None]:
    """Cut a container of any depth into its items by its brackets alone; what they hold is not judged.

    None stands between them for a while that was spent on a large one: a good moment to let others have a turn.
    """
    depth, start, count, position, turns, rested_at = 0, 1, 0, 0, 0, 0
    while depth >= 0:
        turns += 1
        if turns > _TURNS_MAX or position - rested_at > AT_ONCE_BYTES_MAX:
            turns, rested_at = 0, position
            yield None
        if depth > 1:
            depth, position = _walk_inside(body, depth, position)
            continue
        token = _TOKEN.match(body, position)
        assert token is not None  # noqa: S101  it matches the empty text
        mark, position = token[1], token.end()
        if mark in b'"':
            break
        depth += (mark in b"[{") - (mark in b"]}")
        if (depth == 1 and mark == b",") or depth == 0:
            count += 1
            if item := body[start : position - 1].strip(BLANKS):
                yield item
            elif mark == b"," or count > 1:
                raise NotJson(f"a value is missing at byte {position - 1}")
            start = position
        if depth == 0:
            break
    if depth != 0 or body[start:].strip(BLANKS):
        raise NotJson(f"the brackets do not end where the body does, byte {len(body)}")


def _walk_inside(body: bytes, depth: int, position: int) -> tuple[int, int]:
    """Pass over a part of an item; return how deep it is there (-1: the body does not end well) and where."""
    inside = _INSIDE.match(body, position)
    assert inside is not None  # noqa: S101  it matches the empty text
    run = inside[1]
    position = inside.end()
    if run.startswith(b'"') or (not run and position == len(body)):
        return -1, position
    if run.startswith((b"[", b"{")):
        return depth + len(run), position
    closed = min(len(run), depth - 1)  # the bracket that ends the item is not inside it
    return depth - closed, position - len(run) + closed


def _read_kindly(raw: bytes, error: Exception) -> Element | None:
    """Read what the strict decoder refused but the grammar, or the gateway, allows."""
    text = raw.decode("utf-8", "replace")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_integer)
        if not isinstance(value, dict):
            return None
        payload = _without_surrogates(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except RecursionError:
        return _unread(raw)
    except ValueError as reason:
        raise _not_json(raw, error, reason) from None
    try:
        return Element(payload, _decode(payload))
    except (msgspec.MsgspecError, RecursionError):  # a number beyond a double
        return Element(raw, None)


def _unread(raw: bytes) -> Element | None:
    # It was not decoded, so at least it must begin, end and nest as one value does.
    for _ in items(raw):
        pass
    return Element(raw, None) if raw.startswith(b"{") else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _INTEGER_DIGITS_MAX else float(text)


def _without_surrogates(text: str) -> bytes:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _not_json(raw: bytes, error: Exception, reason: ValueError) -> NotJson:
    found = _POSITION.search(str(error))
    if isinstance(reason, json.JSONDecodeError):
        position = len(reason.doc[: reason.pos].encode("utf-8", "replace"))
        what = reason.msg.removesuffix(":").removesuffix(" at")
    else:
        position = int(found[1]) if found else 0
        what = str(reason)
    line = raw.count(b"\n", 0, position) + 1
    column = position - (raw.rfind(b"\n", 0, position) + 1) + 1
    return NotJson(f"{what} at line {line}, column {column} (byte {position})")
