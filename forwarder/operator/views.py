"""From what the daemon's parts know to what the operator's API answers. Pure."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from forwarder import archive_port, model
from forwarder.delivery.route_status import Pause, RouteStatus, ScopeStop
from forwarder.model import RouteName
from forwarder.operator import api_types as told
from forwarder.operator.incidents.incident import Incident
from forwarder.operator.readable import words_of
from forwarder.operator.text import moment
from forwarder.sources.worker import SourceStatus


def event(row: archive_port.EventRow) -> told.Event:
    """Show one line of a listing."""
    return told.Event(**_event_fields(row))


def event_page(found: archive_port.EventPage) -> told.EventPage:
    """Show a page of a listing."""
    return told.EventPage(
        events=[event(row) for row in found.rows],
        next_before=found.next_before,
        next_after=found.next_after,
        is_cut=found.is_cut,
        matched=found.matched,
        scanned=found.scanned,
        reached_at=moment(found.reached_ms),
    )


def trace_id(found: archive_port.EventDetail) -> str:
    """Return the id of the trace that an event was received in; "" for none."""
    return found.trace[3:35]  # of `00-<trace>-<span>-<flags>`


def event_detail(found: archive_port.EventDetail) -> told.EventDetail:
    """Show one event whole."""
    payload, encoding = _text(found.payload)
    progress, _ = _text(found.progress or None)
    return told.EventDetail(
        **_event_fields(found.row),
        event_key=found.event_key.hex(),
        trace_id=trace_id(found),
        payload=payload,
        payload_encoding=encoding,
        progress=progress,
        attempt_log=[_attempt(one) for one in found.attempts],
    )


def route(name: RouteName, facts: archive_port.SpoolFacts, status: RouteStatus | None, *, now_ms: int) -> told.Route:
    """Show one route; `status` None: it does not run."""
    oldest_ms = facts.oldest_pending_ms.get(name)
    totals = facts.totals.get(name)
    return told.Route(
        name=name,
        state=status.state if status else "off",
        since=moment(status.since_ms) if status else None,
        reason=status.reason if status else "",
        pause=_pause(status.pause) if status and status.pause else None,
        stops=[_stop(one) for one in ((status.stop, *status.families) if status else ()) if one is not None],
        in_flight=status.in_flight if status else 0,
        concurrency_limit=status.concurrency_limit if status else 0,
        retrying=facts.retrying.get(name, 0),
        unsettled_bytes=facts.unsettled_bytes.get(name, 0),
        oldest_age_s=max(0.0, (now_ms - oldest_ms) / 1000) if oldest_ms is not None else None,
        totals=_totals(totals) if totals else None,
        open_dead=facts.open_dead.get(name, 0),
        discarded=facts.discarded.get(name, 0),
    )


def source(status: SourceStatus) -> told.Source:
    """Show one source."""
    return told.Source(
        name=status.name, state=status.state, since=moment(status.since_ms), reason=status.reason, lag=status.lag
    )


def route_state(status: RouteStatus) -> told.RouteState:
    """Show how a route is after an act on it."""
    return told.RouteState(
        route=status.name, state=status.state, pause=_pause(status.pause) if status.pause is not None else None
    )


def spool(facts: archive_port.SpoolFacts) -> told.Spool:
    """Show the spool."""
    return told.Spool(**{name: getattr(facts, name) for name in told.Spool.__struct_fields__})


def event_type(row: archive_port.EventTypeRow, links: Sequence[Mapping[str, object]]) -> told.EventType:
    """Show one event type."""
    return told.EventType(
        route=row.route,
        type=row.type,
        event=row.event,
        count=row.count,
        first_at=moment(row.first_at_ms),
        last_at=moment(row.last_at_ms),
        links=msgspec.convert(links, list[told.Link]),
    )


def reason(group: archive_port.ReasonGroup) -> told.Reason:
    """Show one group."""
    return told.Reason(
        reason=group.reason,
        count=group.count,
        sample_sequence=group.sample_sequence,
        last_at=moment(group.last_at_ms),
    )


def audit_line(row: archive_port.AuditRow) -> told.AuditLine:
    """Show one line of the audit log."""
    return told.AuditLine(
        at=moment(row.at_ms), who=row.who, action=row.action, detail=row.detail, count=row.count, outcome=row.outcome
    )


def incident(one: Incident, *, now_ms: int) -> told.Incident:
    """Show one incident."""
    return told.Incident(**one.facts(now_ms=now_ms), delayed=one.delayed, dead=one.dead)


def _event_fields(row: archive_port.EventRow) -> dict[str, Any]:
    labels = row.labels
    return {
        "sequence": row.sequence,
        "route": row.route,
        "state": row.state,
        "event": labels.event,
        "type": labels.type,
        "message_id": labels.message_id,
        "user_id": labels.user_id,
        "source": row.source,
        "received_at": moment(row.received_at_ms),
        "settled_at": moment(row.settled_at_ms),
        "retry_at": moment(row.not_before_ms),
        "attempts": row.attempts,
        "reason": row.reason,
        "is_discarded": row.is_discarded,
        "size_bytes": row.size_bytes,
        "status": row.status,
    }


def _attempt(made: model.Attempt) -> told.Attempt:
    return told.Attempt(
        at=moment(made.at_ms),
        duration_ms=made.duration_ms,
        operation=made.operation,
        status=made.status,
        outcome=made.outcome,
        reason=made.reason,
        words=words_of(made.answer),
        answer=made.answer.decode(errors="replace"),
        mapping=made.mapping,
    )


def _totals(totals: model.Totals) -> told.Totals:
    counts = {name: getattr(totals, name) for name in told.Totals.__struct_fields__ if name != "is_balanced"}
    return told.Totals(**counts, is_balanced=totals.is_balanced())


def _stop(one: ScopeStop) -> told.Stop:
    return told.Stop(
        scope=one.scope,
        state=one.state,
        reason=one.reason,
        since=moment(one.since_ms),
        next_try_at=moment(one.next_try_ms),
    )


def _pause(one: Pause) -> told.Pause:
    return told.Pause(who=one.who, reason=one.reason, since=moment(one.since_ms), until=moment(one.until_ms))


def _text(raw: bytes | None) -> tuple[str | None, str | None]:
    if raw is None:
        return None, None
    try:
        return raw.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"
