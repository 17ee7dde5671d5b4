"""One method per fact: its log line and its metrics together, so that neither can be forgotten.

Logs name events by their sequence and never hold a payload, a value out of one, or a secret (law 8).
No fact is logged once per event at info level.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache

import structlog

from forwarder.model import RouteName
from forwarder.telemetry.metrics import ROUTE_STATES, Metrics

NETWORKS_MAX = 512  # between two readings; a stranger makes as many as he likes: the rest is counted together
OTHERS = "others"
ANSWERED_WITH = (200, 202, 400, 401, 404, 413, 429, 500, 503)
REJECTIONS = (
    "batch_empty",
    "body_broken",
    "body_slow",
    "body_too_large",
    "disconnected",
    "draining",
    "encoding_unsupported",
    "gzip_corrupt",
    "head_too_large",
    "internal_error",
    "key_malformed",
    "key_missing",
    "key_unknown",
    "method_wrong",
    "no_object",
    "not_http",
    "not_json",
    "path_unknown",
    "proxy_protocol",
    "route_off",
    "signature_malformed",
    "signature_mismatch",
    "signature_missing",
    "signature_outside_age",
    "spool_full",
    "too_many_connections",
    "too_many_events",
    "too_much_at_once",
)


class Reporter:
    """Tell people what happened. Cheap, never blocks, never raises for what it is told."""

    def __init__(self, metrics: Metrics, log: structlog.typing.FilteringBoundLogger) -> None:
        self.metrics = metrics
        self._log = log
        # Counts an answer (endpoint, status, seconds from the request's head): every request pays for it.
        self.request_answered = metrics.answers.add
        # Looked up once: these are counted with every request, or batch.
        self._durations = {route: metrics.request_duration.labels(route.value) for route in RouteName}
        self._latencies = {route: metrics.latency.labels(route.value) for route in RouteName}
        self._requests, self._settled = cache(metrics.requests.labels), cache(metrics.settled.labels)
        self._received = {route: metrics.received.labels(route.value) for route in RouteName}
        self._duplicates = {route: metrics.duplicates.labels(route.value) for route in RouteName}

    # --- the public endpoints ---

    def endpoint_opened(self, endpoint: str) -> None:
        """Show an endpoint in the metrics before its first request."""
        self.metrics.answers.expect(endpoint, ANSWERED_WITH)
        for reason in REJECTIONS:
            self.metrics.rejected.labels(endpoint, reason)

    def events_received(self, route: RouteName, *, accepted: int, duplicates: int) -> None:
        """Count what one request brought, once it is on disk."""
        if accepted:
            self._received[route].inc(accepted)
        if duplicates:
            self._duplicates[route].inc(duplicates)

    def request_rejected(self, endpoint: str, reason: str, network: str = "") -> None:
        """Tell of a request that an endpoint turned away; `reason` is one of `REJECTIONS`.

        `network` is where it came from, not one address (a /24 or a /48): counted for people, never logged.
        """
        self.metrics.rejected.labels(endpoint, reason).inc()
        if network:
            counts = self.metrics.rejected_from
            known = (endpoint, reason, network)
            key = known if known in counts or len(counts) < NETWORKS_MAX else (endpoint, reason, OTHERS)
            counts[key] = counts.get(key, 0) + 1
        self._log.warning("request.rejected", endpoint=endpoint, reason=reason)

    def request_crashed(self, endpoint: str, *, error: str, where: str) -> None:
        """Tell of a request that met a bug of ours: the error's type and where it rose, never its text."""
        self.metrics.rejected.labels(endpoint, "internal_error").inc()
        self._log.error("request.crashed", endpoint=endpoint, error=error, where=where)

    def listener_started(self, *, host: str, port: int, endpoints: Sequence[str]) -> None:
        """Tell that the endpoints are open, where, and which."""
        self._log.info("listener.started", host=host, port=port, endpoints=list(endpoints))

    def operator_started(self, *, url: str) -> None:
        """Tell where the page is, and the API of the commands."""
        self._log.info("operator.started", page=url)

    def listener_stopped(self) -> None:
        """Tell that nothing is taken any more."""
        self._log.info("listener.stopped")

    # --- the user's own bus ---

    def source_connected(self, source: str) -> None:
        """Tell that messages are taken from a bus."""
        self.metrics.source_connected.labels(source).set(1)
        self._log.info("source.connected", source=source)

    def source_away(self, source: str, *, reason: str) -> None:
        """Alarm: a bus cannot be reached or refuses us. It is tried again; nothing is acknowledged meanwhile."""
        self.metrics.source_connected.labels(source).set(0)
        self._log.error("source.away", source=source, reason=reason)

    def source_lost(self, source: str, *, messages: int) -> None:
        """Alarm: a bus had dropped messages, by its own limits, before they could be taken."""
        self.metrics.source_lost.labels(source).inc(messages)
        self._log.error("source.lost", source=source, messages=messages)

    def source_lag(self, source: str, lag: int | None) -> None:
        """Show how many messages a bus holds for us; None is not known, and shows nothing."""
        self.metrics.source_connected.labels(source)
        self.metrics.source_lost.labels(source)
        if lag is not None:
            self.metrics.source_lag.labels(source).set(lag)
        else:
            with suppress(KeyError):
                self.metrics.source_lag.remove(source)

    # --- delivery ---

    def request_finished(self, route: RouteName, *, verdict: str, duration_s: float) -> None:
        """Count one exchange with the destination."""
        self._requests(route.value, verdict).inc()
        self._durations[route].observe(duration_s)

    def events_settled(self, route: RouteName, *, outcome: str, count: int) -> None:
        """Count events that reached a final state."""
        self._settled(route.value, outcome).inc(count)

    def events_delivered(self, route: RouteName, *, latencies_s: Sequence[float]) -> None:
        """Record how long each delivered event took from acceptance."""
        self._latencies[route].observe_all(latencies_s)

    def event_buried(self, route: RouteName, *, sequence: int, reason: str) -> None:
        """Tell of an event that was given up. `reason` must not quote the destination's words."""
        self._log.warning("event.buried", route=route.value, sequence=sequence, reason=reason)

    def request_failed(self, route: RouteName, *, reason: str, status: int | None, events: int) -> None:
        """Tell of a request whose events must wait."""
        self._log.warning("request.failed", route=route.value, reason=reason, status=status, events=events)

    def loop_stopped(self, reason: str) -> None:
        """Tell that an event of Courier's own came back and goes nowhere; `reason` is one of the loop guard's."""
        self.metrics.loops_stopped.inc()
        self._log.warning("loop.stopped", reason=reason)

    # --- the state of a route ---

    def route_state_changed(self, route: RouteName, state: str) -> None:
        """Show the state in the metric: one of `ROUTE_STATES`."""
        for known in ROUTE_STATES:
            self.metrics.route_state.labels(route.value, known).set(1 if known == state else 0)

    def route_held(self, route: RouteName, *, scope: str, reason: str, status: int | None) -> None:
        """Alarm: the set-up is wrong, everything waits, nothing is lost."""
        self._log.error("route.held", route=route.value, scope=scope, reason=reason, status=status)

    def route_hold_ended(self, route: RouteName, *, scope: str, held_s: float) -> None:
        """Tell that a hold ended."""
        self._log.info("route.hold_ended", route=route.value, scope=scope, held_s=round(held_s, 1))

    def route_backing_off(self, route: RouteName, *, scope: str, reason: str, after_s: float) -> None:
        """Tell that the route, or a family of its calls, waits before its next request."""
        self._log.warning("route.backing_off", route=route.value, scope=scope, reason=reason, after_s=round(after_s, 2))

    def route_paused(self, route: RouteName, *, who: str, reason: str, until_ms: int | None) -> None:
        """Tell that somebody paused the route, why in his own words, and until when (None: until it is resumed)."""
        self._log.warning("route.paused", route=route.value, who=who, reason=reason, until_ms=until_ms)

    def route_resumed(self, route: RouteName, *, who: str) -> None:
        """Tell that somebody resumed the route, or that its pause came to its end."""
        self._log.info("route.resumed", route=route.value, who=who)

    def concurrency_changed(self, route: RouteName, *, limit: int) -> None:
        """Show how many requests may be in flight."""
        self.metrics.concurrency.labels(route.value).set(limit)

    # --- the spool ---

    def spool_committed(self, duration_s: float) -> None:
        """Count one commit; any thread may call it."""
        self.metrics.commit_duration.observe(duration_s)

    def spool_refusing(self, *, reason: str) -> None:
        """Alarm: new events are turned away for later."""
        self._log.error("spool.refusing", reason=reason)

    def spool_accepting(self) -> None:
        """Tell that new events are taken again."""
        self._log.info("spool.accepting")

    def history_yielded(self, *, events: int) -> None:
        """Alarm: settled events lost their payload before the retention, to make room."""
        self.metrics.history_yielded.inc(events)
        self._log.warning("spool.history_yielded", events=events)

    def row_quarantined(self, *, sequence: int) -> None:
        """Alarm: a damaged row was set aside; the rest is served."""
        self.metrics.quarantined.inc()
        self._log.error("spool.row_quarantined", sequence=sequence)

    def spool_damaged(self) -> None:
        """Alarm, once a run: pages of the database cannot be read; what does not need them is served."""
        self._log.error("spool.damaged", remedy="run `forwarder check`, then restore or recover the data folder")

    def settlement_waiting(self, *, reason: str, events: int) -> None:
        """Alarm: what was delivered cannot be written down, or not yet; it is kept in memory."""
        self._log.error("spool.settlement_waiting", reason=reason, events=events)

    def settlements_lost(self, *, events: int) -> None:
        """Tell that another replica owned these events by the time they were to be settled: it may send them again."""
        self.metrics.settlements_lost.inc(events)
        self._log.warning("spool.settlements_lost", events=events)

    # --- the operator ---

    def incident_began(self, kind: str, *, route: str, scope: str, cause: str) -> None:
        """Tell that something goes wrong; `cause` holds no payload."""
        self._log.warning("incident.began", kind=kind, route=route, scope=scope, reason=cause)

    def incident_ended(self, kind: str, *, route: str, scope: str, lasted_s: float) -> None:
        """Tell that it is over, and how long it was."""
        self._log.warning("incident.ended", kind=kind, route=route, scope=scope, lasted_s=round(lasted_s, 1))

    def alert_sent(self, channel: str, *, began: int, ended: int) -> None:
        """Tell that people were told of incidents."""
        self.metrics.alerts.labels(channel, "sent").inc()
        self._log.info("alert.sent", channel=channel, began=began, ended=ended)

    def alert_failed(self, channel: str, *, reason: str, again_s: float) -> None:
        """Tell that they could not be told yet; `reason` holds no address."""
        self.metrics.alerts.labels(channel, "failed").inc()
        self._log.warning("alert.failed", channel=channel, reason=reason, again_s=round(again_s, 1))

    def operator_acted(self, *, who: str, action: str, selection: str, count: int | None, outcome: str) -> None:
        """Tell what somebody did to which events, and what came of it; nothing in it is out of a payload."""
        self._log.info("operator.acted", who=who, action=action, selection=selection, count=count, outcome=outcome)

    def operator_failed(self, error: Exception) -> None:
        """Tell that a request of the operator's listener met a bug of ours: by type and place, never by text."""
        self._log.error("operator.failed", reason=type(error).__name__, exc_info=error)

    # --- the daemon ---

    def setting_doubtful(self, doubt: str) -> None:
        """Tell of a setting that is allowed but probably not meant."""
        self._log.warning("setting.doubtful", reason=doubt)

    def secrets_read(self, *, replaced: Sequence[str]) -> None:
        """Tell that the secrets were read again and which of them are new."""
        self.metrics.secrets_refused.set(0)
        self._log.info("secrets.read", replaced=list(replaced))

    def secrets_refused(self, *, reason: str) -> None:
        """Alarm: secrets that changed cannot be used; those in effect stay."""
        self.metrics.secrets_refused.set(1)
        self._log.error("secrets.refused", reason=reason)

    def restart_needed(self, *, variables: Sequence[str]) -> None:
        """Tell of settings that changed and take effect with the next start."""
        self._log.warning("settings.restart_needed", variables=list(variables))

    def daemon_ready(self, *, version: str) -> None:
        """Tell that every worker runs and the listener is up."""
        self._log.info("daemon.ready", version=version)

    def daemon_draining(self, *, drain_max_s: float) -> None:
        """Tell that the daemon stops: nothing new is taken, what is in hand is finished."""
        self._log.info("daemon.draining", drain_max_s=drain_max_s)

    def daemon_stopped(self, *, pending: Mapping[RouteName, int]) -> None:
        """Tell that the daemon has stopped, and how many events wait for its next start."""
        self._log.info("daemon.stopped", pending={route.value: count for route, count in pending.items()})

    def drain_cut_off(self, *, workers: Sequence[str]) -> None:
        """Tell that the drain's time is up; what these workers had in hand stays pending."""
        self._log.warning("daemon.drain_cut_off", workers=list(workers))

    def worker_stuck(self, *, worker: str) -> None:
        """Alarm: a loop has not turned lately, and the service manager is no longer told that all is well."""
        self._log.error("worker.stuck", worker=worker)
