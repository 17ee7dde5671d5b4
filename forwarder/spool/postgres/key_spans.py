"""In which spans of time an event's key is known.

A span's keys are a table of their own, dropped whole once the youngest is past the retention. Around a span's end, and
where clocks of replicas differ, a key goes into both: so two replicas that get it at once meet in one of them.
"""

from dataclasses import dataclass

SPANS_PER_RETENTION = 8
_OVERLAP_MS = 300_000  # what the clocks of replicas may differ by


@dataclass(frozen=True, slots=True)
class Spans:
    """Where a key is written now, growing, and the oldest span in which it may be."""

    written: tuple[int, ...]
    oldest: int


def spans_at(now_ms: int, *, retention_s: int) -> Spans:
    """Return the spans of this moment."""
    span_ms = _span_ms(retention_s)
    overlap_ms = min(_OVERLAP_MS, span_ms // 4)
    written = {(now_ms - overlap_ms) // span_ms, (now_ms + overlap_ms) // span_ms}
    return Spans(tuple(sorted(written)), (now_ms - overlap_ms - retention_s * 1_000) // span_ms)


def span_of(at_ms: int, *, retention_s: int) -> int:
    """Return the span of a moment."""
    return at_ms // _span_ms(retention_s)


def span_end_ms(span: int, *, retention_s: int) -> int:
    """Return the last moment of a span."""
    return (span + 1) * _span_ms(retention_s) - 1


def _span_ms(retention_s: int) -> int:
    return max(1_000, retention_s * 1_000 // SPANS_PER_RETENTION)
