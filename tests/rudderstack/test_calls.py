"""Our track calls are those of rudder-sdk-python, but for the differences that are declared."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rudderstack.analytics import Client

from forwarder.errors import Unmappable
from forwarder.rudderstack.calls import EVENT_BYTES_MAX, TrackCall, TrackCalls, timestamp_json

_CALLS = TrackCalls(version="1.2.3")

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_objects = st.dictionaries(st.text(max_size=8), _values, max_size=4)
_tracks = st.builds(
    TrackCall,
    event=st.text(min_size=1),
    user_id=st.none() | st.text(min_size=1),
    anonymous_id=st.text(min_size=1),
    message_id=st.text(min_size=1),
    timestamp_ms=st.integers(min_value=0, max_value=4_102_444_800_000),
    properties=_objects,
    context=st.dictionaries(
        st.sampled_from(["traits", "campaign", "library", "integration", "a%b"]) | st.text(), _values
    ),
)


def _call(**fields: Any) -> TrackCall:
    defaults: dict[str, Any] = {
        "event": "Message Sent",
        "user_id": "usr_1",
        "anonymous_id": None,
        "message_id": "courier-1",
        "timestamp_ms": 1_767_228_324_560,
        "properties": {"status": "SENT"},
    }
    return TrackCall(**{**defaults, **fields})


@settings(max_examples=200, deadline=None)
@given(call=_tracks)
def test_stamping_gives_what_the_sdk_builds(call: TrackCall) -> None:
    """For any event the stamped bytes decode to the very message that the SDK builds for it."""
    assert msgspec.json.decode(_CALLS.encode(call)) == _CALLS.build(call)


@settings(max_examples=100, deadline=None)
@given(call=_tracks, indent=st.sampled_from([None, 2]))
def test_properties_in_their_own_bytes_are_what_the_sdk_builds(call: TrackCall, indent: int | None) -> None:
    """An object that is sent in the bytes it came in decodes to the very message that the SDK builds of it."""
    raw = json.dumps(call.properties, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    spliced = msgspec.structs.replace(call, properties=msgspec.Raw(raw))
    assert raw in _CALLS.encode(spliced)
    assert msgspec.json.decode(_CALLS.encode(spliced)) == _CALLS.build(spliced)


@settings(max_examples=50, deadline=None)
@given(call=_tracks)
def test_the_order_of_fields_is_the_sdks(call: TrackCall) -> None:
    """The fields come in the SDK's order, ours behind them."""
    assert list(json.loads(_CALLS.encode(call))) == list(_CALLS.build(call))


def test_an_event_is_one_object_that_can_be_continued() -> None:
    """The bytes are one JSON object without `sentAt`, and its last byte closes it."""
    body = _CALLS.encode(_call())
    assert body.endswith(b"}")
    assert json.loads(body[:-1] + b',"sentAt":"2026-01-01T00:00:00Z"}')["sentAt"] == "2026-01-01T00:00:00Z"
    assert "sentAt" not in json.loads(body)


def test_what_is_ours_cannot_be_overwritten() -> None:
    """Library and integration name this daemon and Courier, whatever the context says."""
    context = json.loads(_CALLS.encode(_call(context={"library": {"name": "x"}, "integration": 1, "locale": "de"})))[
        "context"
    ]
    assert context == {
        "locale": "de",
        "integration": {"name": "Courier"},
        "library": {"name": "forwarder", "version": "1.2.3"},
    }


def test_nothing_that_was_given_is_changed() -> None:
    """Encoding and building leave properties and context as they were."""
    call = _call(context={"traits": {"email": "maya@example.com"}})
    _CALLS.encode(call)
    _CALLS.build(call)
    assert (call.properties, call.context) == ({"status": "SENT"}, {"traits": {"email": "maya@example.com"}})


def test_integers_of_any_size_stay_exact() -> None:
    """An integer beyond 2^53 leaves with every digit it came with."""
    assert b"18446744073709551617" in _CALLS.encode(_call(properties={"n": 18_446_744_073_709_551_617}))


def test_what_the_gateway_would_never_take_is_refused() -> None:
    """An event above the gateway's request limit is unmappable, one just below it is not."""
    small = len(_CALLS.encode(_call(properties={"x": ""})))
    assert len(_CALLS.encode(_call(properties={"x": "x" * (EVENT_BYTES_MAX - small)}))) == EVENT_BYTES_MAX
    with pytest.raises(Unmappable, match="4096000 bytes"):
        _CALLS.encode(_call(properties={"x": "x" * (EVENT_BYTES_MAX - small + 1)}))


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (1_767_228_324_560, "2026-01-01T00:45:24.560000+00:00"),
        (1_767_228_324_000, "2026-01-01T00:45:24+00:00"),
        (1, "1970-01-01T00:00:00.001000+00:00"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999000+00:00"),
    ],
)
def test_times_are_written_as_the_sdk_does(timestamp_ms: int, text: str) -> None:
    """A time is exact to the millisecond, in UTC, in Python's own ISO form."""
    assert timestamp_json(timestamp_ms).decode() == f'"{text}"'


class _Recorder(BaseHTTPRequestHandler):
    """Takes every post, keeps what it unpacks to."""

    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append({"path": self.path, "type": self.headers["Content-Type"], "body": json.loads(body)})
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Stay silent."""


@pytest.fixture
def recorder() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A data plane that says `ok` and remembers; yields its address and its memory."""
    requests: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Recorder", (_Recorder,), {"requests": requests}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def test_our_batch_is_what_the_sdk_itself_posts(recorder: tuple[str, list[dict[str, Any]]]) -> None:
    """The real SDK's request, captured on the wire, equals our events but for the declared differences."""
    address, requests = recorder
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "courier_webhooks.json").read_text())
    calls = [
        _call(
            event=case["name"],
            message_id=f"courier-{index}",
            properties=case["body"]["data"],
            timestamp_ms=1_767_228_324_000 + index,
        )
        for index, case in enumerate(vectors)
        if isinstance(case["body"].get("data"), dict)
    ][:40]
    client = Client("WRITEKEY", host=address, sync_mode=False, upload_size=100, upload_interval=0.1, gzip=True)
    for call in calls:
        client.track(
            user_id=call.user_id,
            event=call.event,
            properties=call.properties,
            timestamp=datetime.fromtimestamp(call.timestamp_ms / 1_000, UTC),
            message_id=call.message_id,
        )
    client.shutdown()
    posted = [event for request in requests for event in request["body"]["batch"]]
    assert {(request["path"], request["type"]) for request in requests} == {("/v1/batch", "application/json")}
    assert [_without_differences(json.loads(_CALLS.encode(call))) for call in calls] == [
        _without_differences(event) for event in posted
    ]


def _without_differences(event: dict[str, Any]) -> dict[str, Any]:
    """Take away what is declared to differ, and nothing else."""
    context = {name: value for name, value in event["context"].items() if name not in ("library", "integration")}
    return {name: value for name, value in event.items() if name not in ("integrations", "originalTimestamp")} | {
        "context": context,
    }


def test_the_differences_are_these() -> None:
    """What is ours in an event is exactly what the module declares."""
    event = json.loads(_CALLS.encode(_call()))
    assert event["integrations"] == {"All": True, "Courier": False, "COURIER": False}
    assert event["originalTimestamp"] == event["timestamp"] == "2026-01-01T00:45:24.560000+00:00"
    assert event["context"]["integration"] == {"name": "Courier"}
    assert event["type"] == "track"


@pytest.mark.parametrize("before", [None, "0"])
def test_importing_the_sdk_reads_no_env_file(tmp_path: Path, before: str | None) -> None:
    """A `.env` nearby stays unread, and the switch that prevents it is put back as it was."""
    (tmp_path / ".env").write_text("LEAKED_BY_DOTENV=1\n")
    code = (
        "import os, forwarder.rudderstack.calls;"
        "print(os.environ.get('LEAKED_BY_DOTENV'), os.environ.get('PYTHON_DOTENV_DISABLED'))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHON_DOTENV_DISABLED" and "COV" not in name
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if before is not None:
        environment["PYTHON_DOTENV_DISABLED"] = before
    done = subprocess.run(  # noqa: S603 - our own interpreter on our own code
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.split() == ["None", str(before)]
