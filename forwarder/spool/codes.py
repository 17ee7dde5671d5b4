"""The numbers that stand for routes, states and accounts in a spool's tables, and for partitions."""

from collections.abc import Mapping
from enum import IntEnum
from hashlib import blake2b
from typing import Final

from forwarder.model import Replay, RouteName, State, Totals

ROUTES: Final = (RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER)
ROUTE_CODES: Final = {route: code for code, route in enumerate(ROUTES)}
STATES: Final = (State.PENDING, State.DELIVERED, State.FILTERED, State.UNMAPPED, State.DEAD)
STATE_CODES: Final = {state: code for code, state in enumerate(STATES)}
REPLAYS: Final = (Replay.NOT, Replay.REST, Replay.EVERYTHING)
REPLAY_CODES: Final = {replay: code for code, replay in enumerate(REPLAYS)}
PENDING: Final = STATE_CODES[State.PENDING]
DEAD: Final = STATE_CODES[State.DEAD]
CORRUPT_ROW: Final = "corrupt row"  # the reason of what damage has made dead


class Account(IntEnum):
    """What is counted per route, beside the five states that have their own codes 0 to 4."""

    PENDING = 0
    DELIVERED = 1
    FILTERED = 2
    UNMAPPED = 3
    DEAD = 4
    ACCEPTED = 5
    RETRYING = 6  # pending with a failure behind it
    UNSETTLED_BYTES = 7
    DEAD_BYTES = 8
    CORRUPT = 9
    SEQUENCE = 10  # the last one given to any route; kept under route 0
    OPEN_DEAD = 11  # dead, still kept, and not discarded; on Postgres, as the next
    DISCARDED = 12  # dead, still kept, and discarded


def route_code(route: RouteName | None) -> int | None:
    """Return the number of a route; None for any."""
    return None if route is None else ROUTE_CODES[route]


def totals_of(amounts: Mapping[int, int]) -> Totals:
    """Return a route's totals, from what its accounts hold."""
    counts = {state.value: amounts.get(code, 0) for state, code in STATE_CODES.items()}
    return Totals(accepted=amounts.get(Account.ACCEPTED, 0), **counts)


def partition_number(route: str, partition_key: str) -> int:
    """Return the 62-bit number of a partition; 0 for events without order.

    Two partitions that met in one number would only wait for each other.
    """
    if not partition_key:
        return 0
    digest = blake2b(f"{route}\0{partition_key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 2) or 1
