"""The small integers that stand for routes, states and accounts in the database. Never renumber them."""

from enum import IntEnum

from forwarder.model import Replay, RouteName, State

ROUTES = (RouteName.COURIER_TO_RUDDERSTACK, RouteName.RUDDERSTACK_TO_COURIER)
ROUTE_CODES = {route: code for code, route in enumerate(ROUTES)}
STATES = (State.PENDING, State.DELIVERED, State.FILTERED, State.UNMAPPED, State.DEAD)
STATE_CODES = {state: code for code, state in enumerate(STATES)}
SETTLED_CODES = (1, 2, 3, 4)
REPLAYS = (Replay.NOT, Replay.REST, Replay.EVERYTHING)
REPLAY_CODES = {replay: code for code, replay in enumerate(REPLAYS)}
PENDING = STATE_CODES[State.PENDING]
DEAD = STATE_CODES[State.DEAD]


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
