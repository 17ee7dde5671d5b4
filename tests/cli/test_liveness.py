"""`forwarder status --health`: one small question to the listener, past every proxy."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from click.testing import Result

Shell = Callable[..., Result]
_ALIVE = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"alive"}'
_STUCK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nstuck"


@contextmanager
def _answering(host: str, answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answer one connection; yield the port and what was asked."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    heard: list[bytes] = []
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += connection.recv(4_096)
                heard.append(asked)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(10)


@pytest.mark.parametrize(
    ("host", "listen"),
    [
        ("127.0.0.1", "127.0.0.1:{port}"),
        ("127.0.0.1", "0.0.0.0:{port}"),
        ("127.0.0.1", "[::]:{port}"),
        ("::1", "[::]:{port}"),
        ("::1", "[::1]:{port}"),
        ("127.0.0.1", "127.0.0.1:1,127.0.0.1:{port}"),
    ],
)
def test_it_is_alive(shell: Shell, host: str, listen: str) -> None:
    """Any address that answers is enough, on either stack, whatever proxies the environment names."""
    with _answering(host, _ALIVE) as (port, heard):
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:2")
        result = shell("status", "--health", FORWARDER_LISTEN=listen.format(port=port), **proxies)
    assert result.exit_code == 0, result.output
    assert '{"status":"alive"}' in result.stdout
    assert heard[0].startswith(b"GET /livez HTTP/1.1\r\n")


def test_a_listener_behind_a_proxy_is_asked_in_its_protocol(shell: Shell) -> None:
    """Where PROXY protocol is expected, the question begins with it."""
    with _answering("127.0.0.1", _ALIVE) as (port, heard):
        result = shell("status", "--health", FORWARDER_LISTEN=f"127.0.0.1:{port}", FORWARDER_PROXY_PROTOCOL="true")
    assert result.exit_code == 0
    assert heard[0].startswith(b"PROXY UNKNOWN\r\nGET /livez HTTP/1.1\r\n")


def test_a_daemon_that_stands_still_is_told(shell: Shell) -> None:
    """A 503 is exit code 1 with the daemon's own words."""
    with _answering("127.0.0.1", _STUCK) as (port, _):
        result = shell("status", "--health", FORWARDER_LISTEN=f"127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "503 stuck" in result.stderr


def test_nobody_there_is_told(shell: Shell) -> None:
    """No answer is exit code 1 that names every address."""
    result = shell("status", "--health", FORWARDER_LISTEN="127.0.0.1:1,[::1]:1")
    assert result.exit_code == 1
    assert "127.0.0.1:1 gives no answer" in result.stderr
    assert "[::1]:1 gives no answer" in result.stderr
