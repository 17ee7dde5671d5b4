"""Cut a request's body into its events, each in its sender's own bytes; one bad element never spoils its neighbours.

It goes in steps, so that a large body, whoever sent it, lets others have a turn.
"""

import re
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from forwarder.ingress.admission import Admission
from forwarder.ingress.elements import (
    AT_ONCE_BYTES_MAX,
    BLANKS,
    ELEMENTS_MAX,
    NotJson,
    TooManyElements,
    element,
    forgive,
    items,
    trimmed,
)
from forwarder.ingress.endpoints import CALL_TYPES, BodyFormat

# The quick way makes an object of every element before they can be counted. Commas bound them, and the memory.
_COMMAS_MAX = 400_000
_LINES_PER_STEP = 2_000
_MORE = "trailing characters"  # how the decoder calls what stands behind a value of good form
_NAMES_DEEP_MAX = 16
_QUOTED = re.compile(r'"(.*)"', re.DOTALL)
_LINE = re.compile(rb"[^\n]+")
_MEMBER = re.compile(rb'\s*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*', re.DOTALL)

T = TypeVar("T")
Steps = Generator[None, None, T]


class _Members(msgspec.Struct):
    batch: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    type: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    writeKey: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # noqa: N815  Segment's SDKs call it so


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_members = msgspec.json.Decoder(_Members).decode


def at_once(steps: Steps[T]) -> T:
    """Take all steps, for whoever has nobody else to serve."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: T = done.value
            return found


def cut(admission: Admission, body: bytes) -> Steps[tuple[list[bytes], bool]]:
    """Return the request's elements, and whether each is a line, which may be no JSON; note if it is a lone event.

    Raises `NotJson` or `TooManyElements`.
    """
    if len(body) > AT_ONCE_BYTES_MAX:
        yield  # its sender was judged by it just now
    match admission.endpoint.body_format:
        case BodyFormat.EVENTS:
            pieces, is_by_line, admission.is_one = yield from events_of(body, has_lines=admission.has_lines)
            return pieces, is_by_line
        case BodyFormat.CALLS:
            return (yield from _cut_calls(admission, body)), False
        case BodyFormat.BATCH:
            admission.is_one = False
            body = trimmed(body)
            batch: bytes | None = body
            if not body.startswith(b"["):
                batch = yield from batch_of(body)
            # The gateway takes a lone object for a batch of one, and no batch for an empty one.
            return (yield from array_of(batch if batch not in (None, b"null") else b"[]")), False
        case BodyFormat.CALL | BodyFormat.QUERY | BodyFormat.WEBHOOK:
            return [trimmed(body)], False


def array_of(body: bytes) -> Steps[list[bytes]]:
    """Cut an array, or take a lone value as an array of one. Raises `NotJson` or `TooManyElements`."""
    body = trimmed(body)
    if not body.startswith(b"["):
        return [body]
    if body.count(b",") < _COMMAS_MAX:
        try:
            found = _decode_list(body)
        except RecursionError:
            pass
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            forgive(body, error)
        else:
            if len(found) > ELEMENTS_MAX:
                raise TooManyElements
            return [bytes(raw) for raw in found]
    pieces: list[bytes] = []
    for item in items(body):
        if item is None:
            yield
            continue
        pieces.append(item)
        if len(pieces) > ELEMENTS_MAX:
            raise TooManyElements
    return pieces


def lines_of(body: bytes) -> Steps[list[bytes]]:
    """Cut a body into lines without the blank ones. Raises `NotJson` when it is empty, or `TooManyElements`."""
    body = trimmed(body)
    if body.count(b"\n") < _LINES_PER_STEP:
        return [line for one in body.split(b"\n") if (line := one.strip(BLANKS))]
    lines: list[bytes] = []
    for number, found in enumerate(_LINE.finditer(body), 1):
        if line := found[0].strip(BLANKS):
            lines.append(line)
        if len(lines) > ELEMENTS_MAX:
            raise TooManyElements
        if number % _LINES_PER_STEP == 0:
            yield
    return lines


def looks_like_lines(body: bytes) -> bool:
    """Tell whether a body that is no JSON as a whole is one value a line: the first line alone is one."""
    first, separator, _ = trimmed(body).partition(b"\n")
    try:
        element(first.strip(BLANKS))
    except NotJson:
        return False
    return bool(separator)


def batch_of(body: bytes) -> Steps[bytes | None]:
    """Return the JSON of an object's top-level `batch`; None when there is none. Raises `NotJson`."""
    return (yield from _member_of(body, b'"batch"', lambda members: members.batch))


def write_key_of(body: bytes) -> Steps[object]:
    """Return an object's top-level `writeKey`; None when there is none. Raises `NotJson`.

    Nothing else of it is kept, as nobody knows yet whose it is.
    """
    raw = yield from _member_of(body, b'"writeKey"', lambda members: members.writeKey)
    return None if raw is None else _decode(raw)


def first_of(body: bytes) -> Steps[bytes | None]:
    """Return the bytes of the first element of an array, or of an object's `batch`; None when there is none."""
    try:
        body = trimmed(body)
        array = body if body.startswith(b"[") else (yield from batch_of(body))
        if array is None or not array.startswith(b"["):
            return None
        for item in items(array):
            if item is not None:
                return item
            yield
    except (NotJson, TooManyElements):
        pass
    return None


def _member_of(
    body: bytes, name: bytes, of: Callable[[_Members], msgspec.Raw | msgspec.UnsetType]
) -> Steps[bytes | None]:
    body = trimmed(body)
    is_object = body.startswith(b"{")
    try:
        if not is_object:
            _decode_raw(body)
            return None
        member = of(_decode_members(body))
    except RecursionError:
        pass
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        forgive(body, error)
    else:
        return None if isinstance(member, msgspec.UnsetType) else bytes(member)
    found = None
    for item in items(body):
        if item is None:
            yield
        elif is_object and (member_of := _MEMBER.match(item)) and member_of[1] == name:
            found = item[member_of.end() :]
    return found


def events_of(body: bytes, *, has_lines: bool = False) -> Steps[tuple[list[bytes], bool, bool]]:
    """Cut one object, an array, or one object a line (surely with `has_lines`, else where it looks like it).

    Returns the elements, whether each is a line, which may be no JSON, and whether it is a lone one. Raises `NotJson`
    or `TooManyElements`.
    """
    if has_lines:
        return (yield from lines_of(body)), True, False
    try:
        pieces = yield from array_of(body)
        is_one = not trimmed(body).startswith(b"[")
        if is_one:
            _judge_lone(pieces[0])
    except NotJson:
        if not looks_like_lines(body):
            raise
        return (yield from lines_of(body)), True, False
    return pieces, False, is_one


def _judge_lone(raw: bytes) -> None:
    """Raise `NotJson` unless it is one value."""
    try:
        _decode_raw(raw)
    except RecursionError:
        element(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if _MORE in str(error) and looks_like_lines(raw):
            raise NotJson("there is more than one value") from None
        forgive(raw, error)
        if len(raw) > AT_ONCE_BYTES_MAX:
            element(raw)


def _cut_calls(admission: Admission, body: bytes) -> Steps[list[bytes]]:
    body = trimmed(body)
    admission.is_one = False
    if body.startswith(b"["):
        return (yield from array_of(body))
    batch = yield from batch_of(body)
    if batch is not None and batch.startswith(b"["):
        kind = yield from _member_of(body, b'"type"', lambda members: members.type)
        # An object with a `batch` may be an event that only happens to have a field of that name.
        if kind is None or kind.strip(b'"').lower().decode("utf-8", "replace") not in CALL_TYPES:
            return (yield from array_of(batch))
    admission.is_one = True
    return [body]


def call_of(query: bytes, kind: str, *, now_ms: int) -> bytes:
    """Return the JSON of a call that is written as a query, as RudderStack's pixel endpoints take it.

    A dot in a name means a member of an object: `context.page.path`.
    """
    now = datetime.fromtimestamp(now_ms / 1000, tz=UTC).isoformat(timespec="milliseconds")
    call: dict[str, Any] = {"channel": "web", "integrations": {"All": True}, "originalTimestamp": now, "sentAt": now}
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, errors="replace"):
        given.setdefault(name, value)
    given.pop("writeKey", None)
    for name, value in given.items():
        _set(call, name.split(".", _NAMES_DEEP_MAX), value)
    quoted = _QUOTED.fullmatch(str(call.get("anonymousId", "")))
    if quoted:
        call["anonymousId"] = quoted[1]
    if call.get("name") == "" and kind == "page":
        call["name"] = "Unknown Page"
    return _encode(call | {"type": kind})


def _set(call: dict[str, Any], path: list[str], value: str) -> None:
    *parents, last = path
    inside = call
    for parent in parents:
        member = inside.setdefault(parent, {})
        if not isinstance(member, dict):
            return
        inside = member
    inside[last] = value
