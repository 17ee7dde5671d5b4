"""The options that say which events are meant: those of `events`, `replay` and `discard`, named as the API has them."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from forwarder.model import RouteName, State
from forwarder.operator.text import bounds

ROUTES: Final = {
    "outbound": RouteName.COURIER_TO_RUDDERSTACK.value,
    "inbound": RouteName.RUDDERSTACK_TO_COURIER.value,
} | {route.value: route.value for route in RouteName}
_AGO = re.compile(r"(\d{1,6})(s|m|min|h|d)")
_UNIT_S: Final = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_LENGTH_S_MAX: Final = 31_536_000


class RouteWord(click.Choice[str]):
    """A route by its name, or by a short one."""

    def __init__(self) -> None:
        super().__init__(list(ROUTES))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the route's full name."""
        return ROUTES[super().convert(value, param, ctx)]


class Moment(click.ParamType[str]):
    """A time: ISO 8601 (UTC unless it says otherwise), or how long ago: 15m, 1h, 7d."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return milliseconds since 1970, as the API reads them."""
        text = str(value)
        if ago := _AGO.fullmatch(text):
            return str(max(0, time.time_ns() // 1_000_000 - int(ago[1]) * _UNIT_S[ago[2]] * 1_000))
        try:
            read = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                "it is no time: write it like 2026-01-31T12:00, or like 15m, 1h or 7d for as long ago", param, ctx
            )
        return str(max(0, round((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1_000)))


class Bounds(click.ParamType[str]):
    """How many at least and at most, or a status, as the API reads them."""

    name = "bounds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, which says bounds."""
        try:
            bounds(param.name or "" if param else "", str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Length(click.ParamType[float]):
    """How long: 30s, 15m, 2h, 1d."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if not (length := _AGO.fullmatch(str(value))) or not int(length[1]):
            self.fail("it is no length of time: write it like 30s, 15m, 2h or 1d", param, ctx)
        if (length_s := int(length[1]) * _UNIT_S[length[2]]) > _LENGTH_S_MAX:
            self.fail("it is longer than 365d", param, ctx)
        return float(length_s)


STATE = click.option("--state", type=click.Choice([state.value for state in State]), help="Only events in this state.")
_NARROWING: Final = (
    click.option("--route", type=RouteWord(), help="Only this route."),
    click.option("--event", metavar="NAME", help="Only events of this name, such as 'Message Sent'."),
    click.option("--user", "user_id", metavar="ID", help="Only events of this user."),
    click.option("--message", "message_id", metavar="ID", help="Only events of this message."),
    click.option("--reason", metavar="TEXT", help="Only events with exactly this reason."),
    click.option("--text", metavar="TEXT", help="Only events with this in an id, name or payload, in any case."),
    click.option(
        "--status", type=Bounds(), metavar="CODE", help="Only events last answered so: 503, 5xx, 400..499, or none."
    ),
    click.option("--attempts", type=Bounds(), metavar="N", help="Only events attempted so often: 1, 3.., or 2..5."),
    click.option(
        "--since", "from", type=Moment(), metavar="TIME", help="Only what was received since: 1h, 7d, or a time."
    ),
    click.option("--until", "to", type=Moment(), metavar="TIME", help="Only what was received before."),
)


def narrowing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option that narrows a selection."""
    for option in reversed(_NARROWING):
        command = option(command)
    return command
