"""What one client of the public listener, and all of them together, may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """All positive. Times are kept by a sweep, so they may be exceeded by its interval (a second at most)."""

    idle_max_s: float = 75.0  # between two requests, and from a connection's start to the end of a request's head
    body_read_max_s: float = 60.0
    linger_max_s: float = 1.0  # what a sender whose body is not read gets to hear why
    close_max_s: float = 5.0  # what a client gets to take its last answer
    head_bytes_max: int = 65_536
    headers_max: int = 256
    connections_max: int = 4_096
    requests_waiting_max: int = 64  # of one connection; then it is not read until they are answered
    held_bytes_max: int = 134_217_728  # of all bodies and heads that are being read, judged or stored
    is_proxied: bool = False  # connections may begin with a PROXY protocol header
