"""Ask the public listener whether the daemon is alive: on this machine, past every proxy, and cheaply.

Any one of the addresses of FORWARDER_LISTEN may answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from forwarder.settings import Address, Settings

_TIMEOUT_S = 4.0
_ANSWER_MAX = 500
_PROXY_HEADER = b"PROXY UNKNOWN\r\n"  # a health check's own, as the protocol (version 1) has it


@dataclass(frozen=True, slots=True)
class Liveness:
    """What came of it, in words."""

    is_alive: bool
    text: str


def ask(settings: Settings) -> Liveness:
    """Return the first address's yes, or why there was none."""
    said: list[str] = []
    for address in _reached(settings.listen):
        told = _ask(address, is_proxied=settings.proxy_protocol)
        if told.is_alive:
            return told
        said.append(told.text)
    return Liveness(is_alive=False, text="; ".join(said))


def _reached(listen: tuple[Address, ...]) -> Iterator[Address]:
    for one in listen:
        yield one.local()
        if one.host == "::":  # both stacks, of which this machine may have one
            yield replace(one, host="127.0.0.1")


def _ask(address: Address, *, is_proxied: bool) -> Liveness:
    connection = HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    try:
        connection.connect()
        if is_proxied:
            connection.sock.sendall(_PROXY_HEADER)
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        body = answer.read(_ANSWER_MAX).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        return Liveness(is_alive=False, text=f"{address} gives no answer ({type(error).__name__})")
    finally:
        connection.close()
    return Liveness(is_alive=answer.status == HTTPStatus.OK, text=f"{address} {answer.status} {body}")
