"""Contexts of spans as they are read from the wire and from the spool."""

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from forwarder.telemetry.open_telemetry import context_of, traceparent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_traceparent_is_read_and_written() -> None:
    """What is read comes out as version 00, with the sampled flag alone."""
    found = context_of(f"00-{TRACE}-{SPAN}-03")
    assert found == SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(1))
    assert found is not None
    assert traceparent_of(NonRecordingSpan(found)) == f"00-{TRACE}-{SPAN}-01"


def test_a_later_version_is_read_by_its_first_four_fields() -> None:
    """The recommendation asks for it."""
    assert context_of(f"cc-{TRACE}-{SPAN}-00-what-the-future-has") is not None
    assert context_of(f"00-{TRACE}-{SPAN}-00-more") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[1:]}-{SPAN}-01",
        7,
        b"\xff",
    ],
)
def test_what_is_no_traceparent_is_none(text: object) -> None:
    """A damaged row's value and a stranger's header begin a new trace."""
    assert context_of(text) is None
