"""`forwarder alert` shows where incidents are told, and a test tells whether alerts arrive there."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import Result

Shell = Callable[..., Result]

_OUTBOUND = {
    "RUDDERSTACK_WRITE_KEY": "wk",
    "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:1",
    "COURIER_WEBHOOK_SECRET": "whsec",
}
_THROUGH_COURIER = {"COURIER_API_KEY": "ck", "FORWARDER_ALERT_TEMPLATE": "T1", "FORWARDER_ALERT_TO": "ops"}


class People(HTTPServer):
    """Where alerts arrive."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        people = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                people.posted.append((self.path, body))
                self.send_response(202)
                self.end_headers()
                self.wfile.write(b'{"requestId":"1-a"}')

            def do_HEAD(self) -> None:
                self.send_response(400)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def people() -> Iterator[People]:
    """Serve them in another thread."""
    server = People()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(60)
    server.server_close()


def test_a_test_alert_arrives_everywhere(shell: Shell, people: People) -> None:
    """Each channel gets one that says that it is a test; the answer names host and recipient, never the address."""
    given = _OUTBOUND | _THROUGH_COURIER | {"FORWARDER_ALERT_URL": f"{people.url}/hush", "COURIER_API_URL": people.url}
    assert shell("alert", **given).stdout == (
        "FORWARDER_ALERT_URL: 127.0.0.1, as JSON\nFORWARDER_ALERT_TEMPLATE: T1 through Courier to ops\n"
    )
    assert people.posted == []
    result = shell("alert", "--test", **given)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("sent    ") == 2
    assert "hush" not in result.output
    (path, posted), (courier, sent) = people.posted
    assert (path, posted["is_test"], courier) == ("/hush", True, "/send")
    assert "a test alert; nothing is wrong" in sent["message"]["data"]["summary"]
    checked = shell("check", "--connect", "--json", **given)
    told = [one["text"] for one in json.loads(checked.stdout)["findings"] if one["name"] == "alerts"]
    assert told[0] == "incidents are told to 127.0.0.1 and through Courier to 1; `forwarder alert --test` tries it"
    assert "127.0.0.1 is reached" in told[1]
    assert "hush" not in checked.output


def test_an_alert_that_does_not_arrive_fails(shell: Shell) -> None:
    """The exit code is 1, and the reason is told; without a connection the check fails too."""
    given = _OUTBOUND | {"FORWARDER_ALERT_URL": "http://127.0.0.1:1/hush"}
    result = shell("alert", "--test", **given)
    assert (result.exit_code, result.stderr) == (
        1,
        "failed  FORWARDER_ALERT_URL: 127.0.0.1, as JSON: connection refused\n",
    )
    found = json.loads(shell("check", "--connect", "--json", **given).stdout)["findings"]
    assert [one["level"] for one in found if one["name"] == "alerts"] == ["ok", "fail"]


def test_no_alerts_are_a_wrong_configuration(shell: Shell) -> None:
    """Who tries what is not set is told what to set."""
    result = shell("alert", "--test", **_OUTBOUND)
    assert result.exit_code == 78
    assert "Set FORWARDER_ALERT_URL, or FORWARDER_ALERT_TEMPLATE with FORWARDER_ALERT_TO" in result.stderr
