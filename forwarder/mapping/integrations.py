"""The sender's own switch: the `integrations` object of a call.

A destination's key is its display name (`Courier`; `COURIER` switches nothing off at RudderStack), an
object as its value switches it on, and a non-boolean `All` drops the event everywhere
(rudder-server, processor/integrations).
"""

from typing import Any

NAME = "Courier"


def switched_off(integrations: object, *, is_first_stop: bool) -> str:
    """Return why the event is not for Courier, or "".

    `is_first_stop`: nobody upstream has honoured `All` yet (an SDK's data plane); a destination's sender has.
    """
    if not isinstance(integrations, dict):
        return ""
    if integrations.get(NAME) is False:
        return "switched off by its integrations: Courier is false"
    if is_first_stop and not _all_allows(integrations):
        return "switched off by its integrations: All is not true and Courier is not named"
    return ""


def _all_allows(integrations: dict[str, Any]) -> bool:
    everything = integrations.get("All")
    if everything is None or everything is True:
        return True
    named = integrations.get(NAME)
    return everything is False and (named is True or isinstance(named, dict))
