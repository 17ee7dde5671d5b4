"""An address that is taken ends the daemon at once, with words that say which one and what to do."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from stand_ins.process import DaemonProcess

CONFIGURATION = 78


@pytest.mark.parametrize("variable", ["FORWARDER_LISTEN", "FORWARDER_OPERATOR_LISTEN"])
async def test_a_taken_address_is_named(
    make_daemon: Callable[[dict[str, str]], DaemonProcess], outbound: dict[str, str], variable: str
) -> None:
    """The daemon ends with 78, and its one text names the variable, the address and the remedy."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        daemon = make_daemon(outbound | {variable: taken})
        await daemon.spawn()
        for one in daemon.replicas:
            assert one.process is not None
            assert await asyncio.wait_for(one.process.wait(), 60) == CONFIGURATION
            assert f"{variable}: cannot listen on {taken}, because something listens there already" in one.logs()
