"""The small integers that stand for routes, states and accounts in the database. Never renumber them."""

from enum import IntEnum
from typing import Final

from forwarder.model import Replay, RouteName, State

ROUTES: Final = (RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER)
ROUTE_CODES: Final = {route: code for code, route in enumerate(ROUTES)}
EVENT_TABLES: Final = ("events_outbound", "events_inbound")  # by the route's code
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
