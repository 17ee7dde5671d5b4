"""Variables that are none of ours: which are mistakes, which belong to somebody else, and what was meant. Pure.

With our own prefix every unknown name is an error. The vendors' prefixes are shared with their SDKs and tools: there
only a near miss of one of our names is an error, and the rest is told.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from forwarder.settings.sources import PREFIXES, Found

_OURS = PREFIXES[0]
_NEAR = 0.6
_NEAR_OF_VENDORS = 0.75

# Names that the vendors' SDKs, their docs and samples use for what we call otherwise.
MEANT = {
    "COURIER_BASE_URL": "COURIER_API_URL",
    "COURIER_API_BASE_URL": "COURIER_API_URL",
    "COURIER_URL": "COURIER_API_URL",
    "COURIER_HOST": "COURIER_API_URL",
    "COURIER_AUTH_TOKEN": "COURIER_API_KEY",
    "COURIER_AUTHORIZATION_TOKEN": "COURIER_API_KEY",
    "COURIER_ACCESS_TOKEN": "COURIER_API_KEY",
    "COURIER_API_TOKEN": "COURIER_API_KEY",
    "COURIER_TOKEN": "COURIER_API_KEY",
    "COURIER_KEY": "COURIER_API_KEY",
    "COURIER_SECRET": "COURIER_WEBHOOK_SECRET",
    "COURIER_SIGNING_SECRET": "COURIER_WEBHOOK_SECRET",
    "COURIER_WEBHOOK_SIGNING_SECRET": "COURIER_WEBHOOK_SECRET",
    "RUDDERSTACK_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_BASE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_HOST": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_ENDPOINT": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_DATAPLANE": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_DATAPLANE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDER_DATA_PLANE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDER_DATAPLANE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "DATA_PLANE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "DATAPLANE_URL": "RUDDERSTACK_DATA_PLANE_URL",
    "RUDDERSTACK_KEY": "RUDDERSTACK_WRITE_KEY",
    "RUDDERSTACK_SOURCE_KEY": "RUDDERSTACK_WRITE_KEY",
    "RUDDERSTACK_SOURCE_WRITE_KEY": "RUDDERSTACK_WRITE_KEY",
    "RUDDER_WRITE_KEY": "RUDDERSTACK_WRITE_KEY",
    "WRITE_KEY": "RUDDERSTACK_WRITE_KEY",
}

# What Kubernetes injects into every container for services that happen to be named like our prefixes.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"[A-Z0-9_]+?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is said of names that are no settings: `problems` stop the start, `notices` do not."""

    problems: tuple[str, ...]
    notices: tuple[str, ...]


def unknown(found: Iterable[Found], known: Collection[str]) -> Unknown:
    """Judge the variables that are not `known`, each with the one that was probably meant."""
    problems, notices = [], []
    for one in found:
        variable = one.variable
        if variable in known or is_of_kubernetes(variable):
            continue
        meant = MEANT.get(variable) or _near(variable, known)
        if variable.startswith(_OURS) or (meant and variable not in MEANT):
            problems.append(
                f"{variable}: there is no such setting{_asked(meant)}. Remove it, or correct its name ({one.origin})."
            )
        elif variable.startswith(PREFIXES) or meant:
            notices.append(f"{variable}: it is no setting of this daemon and is not read{_asked(meant)}.")
    return Unknown(tuple(problems), tuple(notices))


def is_of_kubernetes(variable: str) -> bool:
    """Tell whether the variable is one that Kubernetes makes for a service."""
    return _KUBERNETES.fullmatch(variable) is not None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ` (did you mean …?)`, or nothing when no known word is near."""
    return _asked(next(iter(difflib.get_close_matches(word, known, n=1, cutoff=_NEAR)), None))


def _near(variable: str, known: Collection[str]) -> str | None:
    prefix, _, rest = variable.partition("_")
    if not variable.startswith(PREFIXES):
        return None
    # Without the prefixes, which make everything look alike and are themselves what is often wrong.
    by_rest = {name.partition("_")[2]: name for name in sorted(known)}
    if variable.startswith(_OURS) or rest in by_rest:
        near = difflib.get_close_matches(rest, by_rest, n=1, cutoff=_NEAR)
    else:
        own = [one for one, name in by_rest.items() if name.startswith(prefix)]
        near = difflib.get_close_matches(rest, own, n=1, cutoff=_NEAR_OF_VENDORS)
    return by_rest[near[0]] if near else None


def _asked(meant: str | None) -> str:
    return f" (did you mean {meant}?)" if meant else ""
