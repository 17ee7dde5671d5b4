"""Which routes run, judged by which variables are given. Pure.

Outbound is given by the destination (`RUDDERSTACK_*`) and a source of events; inbound by the keys that
senders present, which switch it on, and Courier's API key. A Courier API key alone begins nothing.
"""

from collections.abc import Collection, Sequence

from forwarder.model import RouteName
from forwarder.settings.buses import SWITCHES

_SOURCES = ("COURIER_WEBHOOK_SECRET", "FORWARDER_EVENTS_KEY", *SWITCHES)
_BEGINS = {
    RouteName.COURIER_TO_RUDDERSTACK: ("RUDDERSTACK_WRITE_KEY", "RUDDERSTACK_DATA_PLANE_URL", *_SOURCES),
    RouteName.RUDDERSTACK_TO_COURIER: ("FORWARDER_INBOUND_KEYS",),
}
_NEEDS = {
    RouteName.COURIER_TO_RUDDERSTACK: ("RUDDERSTACK_WRITE_KEY", "RUDDERSTACK_DATA_PLANE_URL"),
    RouteName.RUDDERSTACK_TO_COURIER: ("FORWARDER_INBOUND_KEYS", "COURIER_API_KEY"),
}


def missing_of(route: RouteName, given: Collection[str]) -> list[str]:
    """Return what the route still needs; a choice is one entry, "A or B"."""
    missing = [variable for variable in _NEEDS[route] if variable not in given]
    if route is RouteName.COURIER_TO_RUDDERSTACK and not any(source in given for source in _SOURCES):
        missing.append(" or ".join(_SOURCES))
    return missing


def routes_that_run(given: Collection[str]) -> tuple[RouteName, ...]:
    """Return the routes whose settings are all given."""
    return tuple(route for route in RouteName if not missing_of(route, given))


def route_problems(given: Collection[str], asked: Sequence[RouteName] | None) -> list[str]:
    """Return what is wrong with the choice of routes, with what to set; empty when nothing is."""
    if asked is not None:
        return [
            _incomplete(route, "asked for by FORWARDER_ROUTES", missing)
            for route in asked
            if (missing := missing_of(route, given))
        ]
    begun = [route for route in RouteName if any(variable in given for variable in _BEGINS[route])]
    if not begun:
        return [_none(given)]
    return [
        _incomplete(route, "begun: " + ", ".join(v for v in _BEGINS[route] if v in given), missing)
        for route in begun
        if (missing := missing_of(route, given))
    ]


def _incomplete(route: RouteName, why: str, missing: Sequence[str]) -> str:
    return (
        f"the route {route.value} ({why}) is incomplete. Set {', and '.join(missing)}; "
        "or name in FORWARDER_ROUTES only the routes that shall run."
    )


def _none(given: Collection[str]) -> str:
    wanted = "; or ".join(f"for {route.value}: {', and '.join(missing_of(route, given))}" for route in RouteName)
    return f"no route is set up. Set {wanted}."
