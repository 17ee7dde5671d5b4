"""Cut a request's body into its events, each in its sender's own bytes.

The bytes are cut, not decoded and encoded again, so that no number loses a digit on the way; one bad element never
spoils its neighbours. JSON is read as kindly as RudderStack's gateway reads it: broken UTF-8 and lone surrogates become
U+FFFD, the last of duplicate keys wins, a byte order mark in front is skipped; NaN and Infinity are no JSON. An object
that is nested too deeply to be read, or holds a number that no double can hold, is an element all the same: it is kept
unread. What an event must look like is not judged here.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec

from forwarder.errors import ForwarderError

# A bound for memory and time, not a rule: a body of the default limit holds about as many of the smallest real events.
ELEMENTS_MAX = 50_000

_BLANKS = b" \t\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A quote that ends nowhere is a token, too: were it passed over, each one behind it would search the rest again.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
# The next bracket at any depth: what stands between two of them inside an item is passed over at once.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+([\[\]{}"])', re.DOTALL)
_MEMBER = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*', re.DOTALL)
_POSITION = re.compile(r" \(byte (\d+)\)")
_INTEGER_DIGITS_MAX = 4_300  # Python's own limit for turning text into an integer


class NotJson(ForwarderError):
    """The body is no JSON; the text says what is wrong and where, and quotes nothing."""


class TooManyElements(ForwarderError):
    """The request holds more events than one request may."""


class Element(msgspec.Struct, frozen=True, gc=False):
    """One event: its own JSON, and the object that it is; `value` None when it cannot be read."""

    payload: bytes
    value: dict[str, Any] | None


class _Batch(msgspec.Struct):
    batch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _WriteKey(msgspec.Struct):
    writeKey: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # noqa: N815  Segment's SDKs call it so


_decode = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_write_key = msgspec.json.Decoder(_WriteKey).decode


def element(raw: bytes) -> Element | None:
    """Read one JSON value; None when it is no object. Raises `NotJson`."""
    try:
        value = _decode(raw)
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


def array_of(body: bytes) -> list[bytes]:
    """Cut an array, or take a lone value as an array of one. Raises `NotJson` or `TooManyElements`."""
    body = trimmed(body)
    return _cut_array(body) if body.startswith(b"[") else [body]


def lines_of(body: bytes) -> list[bytes]:
    """Cut a body into lines without the blank ones. Raises `NotJson` when it is empty, or `TooManyElements`."""
    lines = [line for line in (line.strip(_BLANKS) for line in trimmed(body).split(b"\n")) if line]
    if len(lines) > ELEMENTS_MAX:
        raise _too_many()
    return lines


def looks_like_lines(body: bytes) -> bool:
    """Tell whether a body that is no JSON as a whole is one value a line: the first line alone is one."""
    first, separator, _ = trimmed(body).partition(b"\n")
    return bool(separator) and _is_json(first.strip(_BLANKS))


def batch_of(body: bytes) -> bytes | None:
    """Return the JSON of an object's top-level `batch`; None when there is none. Raises `NotJson`."""
    return _member_of(body, b'"batch"', lambda raw: _decode_batch(raw).batch)


def write_key_of(body: bytes) -> object:
    """Return an object's top-level `writeKey`; None when there is none. Raises `NotJson`."""
    raw = _member_of(body, b'"writeKey"', lambda raw: _decode_write_key(raw).writeKey)
    return None if raw is None else _decode(raw)


def first_of(body: bytes) -> bytes | None:
    """Return the bytes of the first element of an array, or of an object's `batch`; None when there is none."""
    try:
        body = trimmed(body)
        array = body if body.startswith(b"[") else batch_of(body)
        if array is None or not array.startswith(b"["):
            return None
        return next(iter(_cut_array(array)), None)
    except (NotJson, TooManyElements):
        return None


def _member_of(body: bytes, name: bytes, decoded: Callable[[bytes], msgspec.Raw | msgspec.UnsetType]) -> bytes | None:
    body = trimmed(body)
    if not body.startswith(b"{"):
        return None
    try:
        member = decoded(body)
    except RecursionError:
        return _member(body, name)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _read_kindly(body, error)  # raises unless it is JSON all the same
        return _member(body, name)
    return None if isinstance(member, msgspec.UnsetType) else bytes(member)


def trimmed(body: bytes) -> bytes:
    """Return the body without a byte order mark and outer blanks; raises `NotJson` when nothing is left."""
    body = body.removeprefix(_BYTE_ORDER_MARK).strip(_BLANKS)
    if not body:
        raise NotJson("the body is empty")
    return body


def _is_json(raw: bytes) -> bool:
    try:
        element(raw)
    except NotJson:
        return False
    return True


def _cut_array(body: bytes) -> list[bytes]:
    # The quick way makes an object of every element before anything can be counted: commas bound them.
    if body.count(b",") < ELEMENTS_MAX:
        try:
            return [bytes(raw) for raw in _decode_list(body)]
        except RecursionError:
            pass
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            _read_kindly(body, error)  # raises unless it is JSON all the same
    return list(_items(body))


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
    for _ in _items(raw):
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


def _items(body: bytes) -> Iterator[bytes]:
    """Cut a container of any depth into its items by its brackets alone; what they hold is not judged."""
    depth, start, count, position = 0, 1, 0, 0
    while token := _TOKEN.search(body, position) if depth <= 1 else _BRACKET.match(body, position):
        mark, position = body[token.end() - 1 : token.end()], token.end()
        if depth <= 1 and token.end() - token.start() > 1:
            continue  # a text
        depth += (mark in b"[{") - (mark in b"]}")
        if (depth == 1 and mark == b",") or depth == 0:
            count += 1
            if count > ELEMENTS_MAX:
                raise _too_many()
            if item := body[start : token.start()].strip(_BLANKS):
                yield item
            elif mark == b"," or count > 1:
                raise NotJson(f"a value is missing at byte {token.start()}")
            start = token.end()
        if depth <= 0 or mark == b'"':
            break
    if depth != 0 or body[start:].strip(_BLANKS):
        raise NotJson(f"the brackets do not end where the body does, byte {len(body)}")


def _member(body: bytes, name: bytes) -> bytes | None:
    found = None
    for item in _items(body):
        member = _MEMBER.match(item)
        if member and member[1] == name:
            found = item[member.end() :]
    return found


def _too_many() -> TooManyElements:
    return TooManyElements(f"more than {ELEMENTS_MAX} events in one request")
