"""Commands in an 8-bit locale: what its encoding lacks is escaped, and ends no command."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from forwarder.settings.sources import PREFIXES

pytestmark = pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])


def _run(folder: Path, encoding: str, *words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "forwarder", *words],
        cwd=folder,
        env=inherited | {"PYTHONIOENCODING": encoding} | environ,
        capture_output=True,
        timeout=60,
        check=False,
    )


class _Daemon(BaseHTTPRequestHandler):
    """Takes every webhook."""

    def do_POST(self) -> None:
        """Take it."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"accepted":1,"duplicates":0}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""
        del format


@pytest.fixture
def url() -> Iterator[str]:
    """Serve it."""
    with HTTPServer(("127.0.0.1", 0), _Daemon) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_sample_is_told_after_it_was_posted(url: str, tmp_path: Path, encoding: str) -> None:
    """The arrow in its line is no obstacle."""
    done = _run(tmp_path, encoding, "send-sample", "--url", url, COURIER_WEBHOOK_SECRET="s")
    assert (done.returncode, done.stderr) == (0, b"")
    assert ("→" if encoding == "utf-8" else "\\u2192") in done.stdout.decode(encoding)


def test_events_are_listed(filled: Any, encoding: str) -> None:
    """The names and reasons of events are no obstacle."""
    done = _run(filled.folder, encoding, "events", **filled.own)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "dead" in done.stdout.decode(encoding)


def test_what_is_escaped_is_still_json(tmp_path: Path, encoding: str) -> None:
    """What `map` prints can be read back in any encoding."""
    event = {"type": "message:updated", "data": {"id": "1-6", "status": "SENT", "recipient": "Größe → 𝄞", "sent": 1}}
    (tmp_path / "event.json").write_text(json.dumps(event, ensure_ascii=False), "utf-8")
    done = _run(tmp_path, encoding, "map", "event.json")
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["call"]["userId"] == "Größe → 𝄞"
