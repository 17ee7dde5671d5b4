"""Open the sockets that are listened on, and say in words that name the setting why one could not be opened."""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

from forwarder.errors import SettingsInvalid

_VARIABLE = "FORWARDER_LISTEN"
_BACKLOG = 1_024
_BOTH_STACKS = "::"

Address = tuple[str, int]


async def listen(make: Callable[[], asyncio.Protocol], addresses: Sequence[Address]) -> list[asyncio.Server]:
    """Listen on every address, on all or none; `::` takes IPv4, too. Raises `SettingsInvalid`."""
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    for host, port in addresses:
        try:
            if host == _BOTH_STACKS:
                server = await loop.create_server(make, sock=_both_stacks(port), backlog=_BACKLOG)
            else:
                server = await loop.create_server(make, host, port, reuse_address=True, backlog=_BACKLOG)
        except OSError as error:
            for opened in servers:
                opened.close()
            raise SettingsInvalid(why_not(host, port, error)) from None
        servers.append(server)
    return servers


def why_not(host: str, port: int, error: OSError) -> str:
    """Return what to tell people of an address that could not be listened on."""
    where = f"{_VARIABLE}: cannot listen on {f'[{host}]' if ':' in host else host}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}, because something listens there already. Stop that, or set another port."
        case errno.EACCES:
            return f"{where}, because that port is for privileged processes. Set one above 1023."
        case _:
            return f"{where} ({error.strerror or type(error).__name__}). Set an address of this machine."


def _both_stacks(port: int) -> socket.socket:
    # The event loops would listen on IPv6 alone.
    made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((_BOTH_STACKS, port))
    except OSError:
        made.close()
        raise
    return made
