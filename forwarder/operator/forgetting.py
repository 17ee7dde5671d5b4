"""Erase a person: what the spool holds of his events, in every state, and his id in the audit log.

Matched is the label that people find events by, exactly, case included, on both routes: the recipient of Courier's
events; the userId of calls, else their anonymousId. Who is known by several ids is erased by each of them. What only
mentions him, such as an address within another's payload, is not found so.
"""

import asyncio
import secrets
from collections import Counter
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from forwarder.archive_port import EventQuery
from forwarder.model import State
from forwarder.operator.acts import Acts, Line
from forwarder.operator.operation import QueryInvalid
from forwarder.operator.parameters import ACTION_EVENTS_MAX, Number
from forwarder.operator.parts import LABEL_CHARACTERS_MAX

WITHIN_S: Final = 10.0  # of one request; the next one goes on
_LEASED_LOOKS: Final = 40
_LOOK_EVERY_S: Final = 0.25
_SALT_BYTES: Final = 4
LEFT: Final = "on the way, or in hand for the next try (pause the route, then do it again)"

Count = Annotated[int, Meta(ge=0)]


class Forget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose events: `user_id` exactly as events are listed by it. Pass `next_after` as `after` until it is null."""

    user_id: Annotated[str, Meta(min_length=1, max_length=1_000)]
    after: Number = 0
    dry_run: Annotated[bool, Meta(description="count only, and change nothing")] = False
    act: Annotated[str, Meta(max_length=64, description="the same in every step of one act")] = ""


class Forgotten(Struct, frozen=True, kw_only=True):
    """What this step met, and at the end what is left."""

    states: Annotated[dict[State, Count], Meta(description="events of this step by the state in which they were")]
    erased: Count
    pending: Annotated[Count, Meta(description="of those that were erased: waited, and are discarded")]
    leased: Annotated[
        Count, Meta(description="left as they are: on the way, or in hand for the next try; a paused route has none")
    ]
    next_after: int | None
    receipt: Annotated[str, Meta(description="what the audit log calls the person; see `digest`")]
    is_off_disk: Annotated[
        bool | None, Meta(description="at the end: no deleted byte is left in the database's files; null before")
    ]


def digest(user_id: str, salt: str) -> str:
    """Name a person for whoever knows the id: `salt:` and the beginning of SHA-256 over salt and id."""
    return f"{salt}:{sha256((salt + user_id).encode('utf-8', 'replace')).hexdigest()[:32]}"


async def forget(acts: Acts, given: Forget, *, who: str, within_s: float = WITHIN_S) -> Forgotten:
    """Erase, as far as `within_s` goes; the last step also waits a while for what is being delivered.

    Raises `QueryInvalid` for an id of which events show only a beginning, as another's may have the same.
    """
    parts, user_id = acts.parts, given.user_id
    if len(user_id) >= LABEL_CHARACTERS_MAX:
        raise QueryInvalid(
            f"events are found by the first {LABEL_CHARACTERS_MAX} characters of their user: an id this long may be "
            "another person's, too, and nobody is erased by it"
        )
    until_s = parts.clock.monotonic_s() + within_s
    name = digest(user_id, secrets.token_hex(_SALT_BYTES))
    line = acts.line(who, "forget", f"person {name}")
    line.has_own_detail = True
    if given.act and not given.dry_run:
        line = await acts.step(given.act, line)
    states: Counter[State] = Counter()
    met: Counter[str] = Counter()
    after: int | None = given.after
    is_off_disk = None
    try:
        while after is not None and parts.clock.monotonic_s() <= until_s:
            one = await parts.archive.events(EventQuery(user_id=user_id, after_sequence=after, limit=ACTION_EVENTS_MAX))
            states.update(row.state for row in one.rows)
            if one.rows and not given.dry_run:
                await _erase(acts, line, [row.sequence for row in one.rows], met)
            after = one.next_after
        if after is None and not given.dry_run:
            await _erase_leased(acts, line, user_id, met)
    finally:
        if not given.dry_run:
            await acts.erased()
    if after is None and not given.dry_run:
        is_off_disk = await parts.spool.scrub([user_id])
        line.count = line.count or 0
        await acts.end(line, _outcome(line, met["leased"], is_off_disk=is_off_disk))
    elif given.act and not given.dry_run:
        await acts.await_step(given.act, line)
    return Forgotten(
        states=dict(states),
        erased=met["events"],
        pending=met["pending"],
        leased=met["leased"],
        next_after=after,
        receipt=line.detail.removeprefix("person "),
        is_off_disk=is_off_disk,
    )


async def _erase(acts: Acts, line: Line, sequences: list[int], met: Counter[str]) -> None:
    found = await acts.parts.spool.erase(sequences)
    met.update(events=found.events, pending=found.pending, leased=found.leased)
    line.tally.update(pending=found.pending)
    await acts.note(line, found.events)


async def _erase_leased(acts: Acts, line: Line, user_id: str, met: Counter[str]) -> None:
    """Erase what was being delivered, once it is not."""
    archive = acts.parts.archive
    for _ in range(_LEASED_LOOKS):
        rows = (await archive.events(EventQuery(user_id=user_id, limit=ACTION_EVENTS_MAX))).rows
        met["leased"] = 0
        if not rows:
            return
        await _erase(acts, line, [row.sequence for row in rows], met)
        if not met["leased"]:
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def _outcome(line: Line, leased: int, *, is_off_disk: bool) -> str:
    words = [f"{line.tally['pending']} of them waited and are discarded"] if line.tally["pending"] else []
    words += [f"{leased} left: {LEFT}"] if leased else []
    return "; ".join(
        [*words, "what was erased is off the disk" if is_off_disk else "deleted bytes are on the disk yet"]
    )
