"""The JSON that the operator's API answers with. Pure; times are ISO 8601 in UTC, sizes bytes, ages seconds."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from forwarder.flow.route import RouteStatus, ScopeStop
from forwarder.model import Attempt, RouteName, Totals
from forwarder.ports import AuditRow, EventDetail, EventPage, EventRow, EventTypeRow, ReasonGroup, SpoolFacts

Json = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(at_ms: int | None) -> str | None:
    """Write a time; None stays None, and what no calendar holds is told as None too."""
    if at_ms is None:
        return None
    try:
        at = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(row: EventRow) -> Json:
    """Show one line of a listing, flat."""
    return {
        "sequence": row.sequence,
        "route": row.route.value,
        "state": row.state.value,
        "event": row.labels.event,
        "type": row.labels.type,
        "message_id": row.labels.message_id,
        "user_id": row.labels.user_id,
        "source": row.source,
        "received_at": moment(row.received_at_ms),
        "settled_at": moment(row.settled_at_ms),
        "retry_at": moment(row.not_before_ms),
        "attempts": row.attempts,
        "reason": row.reason,
        "is_discarded": row.is_discarded,
        "size_bytes": row.size_bytes,
    }


def page(found: EventPage) -> Json:
    """Show a page of a listing; `next_before` continues it."""
    return {
        "events": [event(row) for row in found.rows],
        "next_before": found.next_before,
        "is_cut": found.is_cut,
    }


def detail(found: EventDetail) -> Json:
    """Show one event whole. A payload that is no UTF-8 is told in base64."""
    payload, encoding = _text(found.payload)
    progress, _ = _text(found.progress or None)
    return event(found.row) | {
        "event_key": found.event_key.hex(),
        "payload": payload,
        "payload_encoding": encoding,
        "progress": progress,
        "attempt_log": [attempt(one) for one in found.attempts],
    }


def attempt(made: Attempt) -> Json:
    """Show one exchange with the destination."""
    return {
        "at": moment(made.at_ms),
        "duration_ms": made.duration_ms,
        "operation": made.operation,
        "status": made.status,
        "outcome": made.outcome,
        "reason": made.reason,
        "answer": made.answer.decode(errors="replace"),
    }


def books(account: Totals) -> Json:
    """Show the account of one route and whether it balances."""
    return {
        "accepted": account.accepted,
        "pending": account.pending,
        "delivered": account.delivered,
        "filtered": account.filtered,
        "unmapped": account.unmapped,
        "dead": account.dead,
        "is_balanced": account.is_balanced(),
    }


def spool(facts: SpoolFacts) -> Json:
    """Show the spool as a whole."""
    return {
        "size_bytes": facts.size_bytes,
        "cap_bytes": facts.cap_bytes,
        "is_accepting": facts.is_accepting,
        "refusal": facts.refusal,
        "corrupt_rows": facts.corrupt_rows,
        "sqlite_version": facts.sqlite_version,
    }


def route(name: RouteName, facts: SpoolFacts, status: RouteStatus | None, *, now_ms: int) -> Json:
    """Show one route; one that is not running has the state `off`."""
    oldest_ms = facts.oldest_pending_ms.get(name)
    account = facts.totals.get(name)
    return {
        "name": name.value,
        "state": status.state if status else "off",
        "since": moment(status.since_ms) if status else None,
        "reason": status.reason if status else "",
        "stops": [stop(one) for one in _stops(status)],
        "in_flight": status.in_flight if status else 0,
        "concurrency_limit": status.concurrency_limit if status else 0,
        "retrying": facts.retrying.get(name, 0),
        "unsettled_bytes": facts.unsettled_bytes.get(name, 0),
        "oldest_age_s": max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else None,
        "books": books(account) if account else None,
    }


def stop(one: ScopeStop) -> Json:
    """Show what stands still, why, and when it is tried again."""
    return {
        "scope": one.scope,
        "state": one.state,
        "reason": one.reason,
        "since": moment(one.since_ms),
        "next_try_at": moment(one.next_try_ms),
    }


def event_type(row: EventTypeRow, links: Sequence[Mapping[str, object]]) -> Json:
    """Show one event type that was seen, and what it is linked to."""
    return {
        "route": row.route.value,
        "type": row.type,
        "event": row.event,
        "count": row.count,
        "first_at": moment(row.first_at_ms),
        "last_at": moment(row.last_at_ms),
        "links": [dict(link) for link in links],
    }


def reason(group: ReasonGroup) -> Json:
    """Show settled events that share a reason."""
    return {
        "reason": group.reason,
        "count": group.count,
        "sample_sequence": group.sample_sequence,
        "last_at": moment(group.last_at_ms),
    }


def audit(row: AuditRow) -> Json:
    """Show who did what, when."""
    return {"at": moment(row.at_ms), "who": row.who, "action": row.action, "detail": row.detail}


def _stops(status: RouteStatus | None) -> Sequence[ScopeStop]:
    if status is None:
        return ()
    return (*((status.stop,) if status.stop else ()), *status.families)


def _text(raw: bytes | None) -> tuple[str | None, str | None]:
    if raw is None:
        return None, None
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"
