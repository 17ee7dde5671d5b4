"""Store an edited copy of a dead event as a new one, and discard the old.

Not the old event with another payload: what arrived stays what arrived, and a key that the destination may have seen
never stands for other content. The copy's key is made of the old key and the new payload, so that a form that is sent
twice, or again after a crash between the two steps, stores one copy. Deliberately absent: the form.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, NoReturn

import msgspec

from forwarder.archive_port import Archive, EventDetail, EventQuery
from forwarder.courier import wire as courier_wire
from forwarder.errors import SpoolClosed, SpoolFull
from forwarder.model import Envelope, Receipt, RouteName, State
from forwarder.operator.acts import Acts
from forwarder.operator.explain import Explain, Explained
from forwarder.operator.operation import QueryInvalid
from forwarder.operator.readable import difference, readable
from forwarder.ports import Spool
from forwarder.rudderstack import wire as rudderstack_wire

EDIT_BYTES_MAX: Final = 1_048_576  # a text field of more helps nobody
_KEY_SIZE: Final = 16
_LOOKED_AT_MAX: Final = 20  # of the newest events, to find the copy's sequence for the audit log
_ACT: Final = "edit"
_AUDIT_LOOKED_AT_MAX: Final = 500  # lines: which copy is whose is known for as long as it is among them
_REPLACED = re.compile(r"event (\d+) was replaced by event (\d+), an edited copy")


def editable_text(found: EventDetail) -> str:
    """Return the payload to be edited, indented where it is JSON; raises `QueryInvalid` for what cannot be edited.

    Indenting touches only the blanks between values: no number loses a digit.
    """
    if found.row.state is not State.DEAD or found.row.is_discarded:
        raise QueryInvalid("Only a dead event that is not discarded can be edited and replayed")
    if found.payload is None:
        raise QueryInvalid("This event has no payload any more: it was purged or its row is damaged")
    if len(found.payload) > EDIT_BYTES_MAX:
        raise QueryInvalid(
            f"A payload of more than {EDIT_BYTES_MAX} bytes is not edited here: export it, and send it anew"
        )
    return readable(found.payload, shown_max=sys.maxsize).text


def edited_envelope(found: EventDetail, text: str, *, now_ms: int) -> Envelope:
    """Wrap the edited payload; raises `QueryInvalid` with line and column for what is no JSON object."""
    given, value = _read(text)
    payload = _compact(given)
    row = found.row
    if row.route is RouteName.COURIER_TO_RUDDERSTACK:
        wrapped = courier_wire.envelope(payload, received_at_ms=now_ms, source=row.source)
    elif value is None:
        wrapped = rudderstack_wire.unreadable(payload, received_at_ms=now_ms, source=row.source)
    else:
        wrapped = rudderstack_wire.envelope(
            value, payload, received_at_ms=now_ms, source=row.source, unique=lambda: os.urandom(_KEY_SIZE)
        )
    key = blake2b(found.event_key + payload, digest_size=_KEY_SIZE, person=b"edited").digest()
    return msgspec.structs.replace(wrapped, event_key=key, recurrence=None, trace=found.trace)


def changed_envelope(found: EventDetail, text: str, *, now_ms: int) -> Envelope:
    """Wrap the edited payload of an event that may be edited; raises `QueryInvalid`, also where nothing was changed."""
    editable_text(found)  # raises for what cannot be edited
    envelope = edited_envelope(found, text, now_ms=now_ms)
    if found.payload is not None and _is_same(found.payload, envelope.payload):
        raise QueryInvalid("Nothing was changed: replay the event as it is, or change it first")
    return envelope


async def store_edited(acts: Acts, found: EventDetail, text: str, *, who: str) -> int | None:
    """Store the copy, discard the original, write down both; raises `QueryInvalid` and `SpoolFull`.

    Returns the copy's sequence when it was found again. The copy is stored first: whatever happens between, nothing
    is lost.
    """
    envelope = changed_envelope(found, text, now_ms=acts.parts.clock.wall_ms())
    await _store(acts.parts.spool, envelope)
    sequence = await _sequence_of(acts.parts.archive, envelope, after=found.row.sequence)
    original = found.row.sequence
    named = "an edited copy" if sequence is None else f"event {sequence}, an edited copy"
    line = acts.line(who, _ACT, f"event {original} was replaced by {named}")
    await acts.discard([original], line=line)
    await acts.end(line, "stored, the original discarded")
    return sequence


async def _store(spool: Spool, envelope: Envelope) -> None:
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_commit(_: Receipt) -> None:
        if not answer.done():  # it is when nobody waits any more
            answer.set_result(None)

    def on_rollback(error: SpoolFull | SpoolClosed) -> None:
        if not answer.done():
            answer.set_exception(error)

    spool.append([envelope], on_commit=on_commit, on_rollback=on_rollback)
    await answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an edit would do: what would be sent, and each difference as `readable.difference` tells it."""

    explained: Explained | None  # None: the route does not run
    payload: Sequence[tuple[str, str]] | None
    sent: Sequence[tuple[str, str]] | None  # against what the mapping makes of the event as it arrived


def preview(found: EventDetail, envelope: Envelope, explain: Explain | None) -> Preview:
    """Map an edited copy without storing it. It may take a while: not for the loop's thread."""
    row = replace(found.row, labels=envelope.labels, received_at_ms=envelope.received_at_ms)
    copy = replace(found, row=row, event_key=envelope.event_key, payload=envelope.payload)
    before, after = (None, None) if explain is None else (explain(found), explain(copy))
    return Preview(
        explained=after,
        payload=difference(found.payload or b"", envelope.payload),
        sent=difference(before.as_sent(), after.as_sent()) if before and after else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What an event was made of, and what was made of it, by an edit; None for nothing that is still in the log."""

    original: int | None = None
    copy: int | None = None


async def edits_of(archive: Archive, sequence: int) -> Edits:
    """Return what the newest lines of the audit log tell of an event's edits."""
    original = copy = None
    for line in await archive.audit(limit=_AUDIT_LOOKED_AT_MAX):
        told = _REPLACED.fullmatch(line.detail) if line.action == _ACT else None
        if told is None:
            continue
        old, new = (int(number) for number in told.groups())
        original = old if new == sequence and original is None else original
        copy = new if old == sequence and copy is None else copy
    return Edits(original=original, copy=copy)


async def _sequence_of(archive: Archive, envelope: Envelope, *, after: int) -> int | None:
    labels = envelope.labels
    newest = await archive.events(
        EventQuery(
            route=envelope.route,
            message_id=labels.message_id or None,
            user_id=labels.user_id or None,
            event=labels.event or None,
            limit=_LOOKED_AT_MAX,
        )
    )
    for row in newest.rows:
        if row.sequence > after and row.size_bytes == len(envelope.payload):
            detail = await archive.event(row.sequence)
            if detail.event_key == envelope.event_key:
                return row.sequence
    return None


def _read(text: str) -> tuple[bytes, dict[str, Any] | None]:
    """Return the payload and the object that it is; None for one that is nested too deeply to be read."""
    # Forms send line ends as CR LF; in JSON they are blanks, and bare ones are what people see.
    text = text.replace("\r\n", "\n").removeprefix("\ufeff").strip()
    payload = text.encode("utf-8", "replace")
    if not payload:
        raise QueryInvalid("This is no JSON: the body is empty")
    if len(payload) > EDIT_BYTES_MAX:
        raise QueryInvalid(f"The edited payload is longer than {EDIT_BYTES_MAX} bytes")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise QueryInvalid(f"This is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:
        raise QueryInvalid(f"This is no JSON: {error}") from None
    except RecursionError:
        value = {} if text.startswith("{") else None
    if not isinstance(value, dict):
        raise QueryInvalid("This is JSON, but no object: an event begins with { and ends with }")
    try:
        return payload, msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return payload, None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _compact(payload: bytes) -> bytes:
    try:
        return msgspec.json.format(payload, indent=-1)
    except (msgspec.MsgspecError, RecursionError):
        return payload


def _is_same(original: bytes, edited: bytes) -> bool:
    return _compact(original) == edited
