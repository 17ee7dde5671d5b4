"""What only several settings together can get wrong. Pure.

`conflicts` are errors: the daemon would run into them. `doubts` are what `forwarder check` warns of.
"""

import difflib
import re
from collections.abc import Collection, Mapping

from forwarder.settings.model import Settings
from forwarder.settings.routes import route_problems
from forwarder.settings.sources import Found

_TOKEN_CHARACTERS_MIN = 16

# What Kubernetes injects into every container for services that happen to be named like our prefixes.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"[A-Z0-9_]+?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def unknown(found: Mapping[str, Found], known: Collection[str]) -> list[str]:
    """Return the variables that mean nothing to us, each with the one that was probably meant."""
    return [
        f"{variable}: there is no such setting{_meant(variable, known)}. Remove it, or correct its name ({one.origin})."
        for variable, one in found.items()
        if variable not in known and not is_of_kubernetes(variable)
    ]


def _meant(variable: str, known: Collection[str]) -> str:
    # Without the prefixes, which make everything look alike and are themselves what is often wrong.
    by_rest = {name.partition("_")[2]: name for name in sorted(known)}
    near = difflib.get_close_matches(variable.partition("_")[2], by_rest, n=1, cutoff=0.6)
    return f" (did you mean {by_rest[near[0]]}?)" if near else ""


def is_of_kubernetes(variable: str) -> bool:
    """Tell whether the variable is one that Kubernetes makes for a service."""
    return _KUBERNETES.fullmatch(variable) is not None


def conflicts(settings: Settings, *, given: Collection[str], wrong: Collection[str]) -> list[str]:
    """Return errors between settings; `wrong` ones are reported already and count as given."""
    problems = []
    if "FORWARDER_ROUTES" not in wrong:
        problems += [f"FORWARDER_ROUTES: {text}" for text in route_problems(given, settings.routes_asked)]
    if settings.spool == "jetstream":
        problems.append(
            "FORWARDER_SPOOL: this version does not include the jetstream spool. Set sqlite, or leave it unset."
        )
    if not settings.operator_listen.is_loopback() and "FORWARDER_OPERATOR_TOKEN" not in given:
        problems.append(
            f"FORWARDER_OPERATOR_TOKEN: it is unset while FORWARDER_OPERATOR_LISTEN ({settings.operator_listen}) can "
            "be reached from other machines. Set a long random token (openssl rand -hex 32), or listen on 127.0.0.1."
        )
    if settings.listen.overlaps(settings.operator_listen):
        problems.append(
            f"FORWARDER_OPERATOR_LISTEN: {settings.operator_listen} is taken by FORWARDER_LISTEN ({settings.listen}). "
            "Set another port."
        )
    return problems


def doubts(settings: Settings) -> list[str]:
    """Return what is allowed but probably not meant, each naming its variable and the remedy."""
    given = settings.given()
    token = settings.operator_token
    judged = (
        (
            "COURIER_API_KEY" in given and "FORWARDER_INBOUND_KEYS" not in given,
            "COURIER_API_KEY is set but FORWARDER_INBOUND_KEYS is not: the route rudderstack_to_courier is off.",
        ),
        (
            settings.signature_age_max_s > settings.retention_s,
            (
                "FORWARDER_SIGNATURE_AGE_MAX_S is above FORWARDER_RETENTION_S: a resend could arrive after its first "
                "copy was forgotten. Raise the retention."
            ),
        ),
        (
            settings.body_bytes_max > settings.spool_bytes_max // 4,
            (
                "FORWARDER_BODY_BYTES_MAX is more than a quarter of FORWARDER_SPOOL_BYTES_MAX: a few requests fill the "
                "spool. Raise the spool's cap."
            ),
        ),
        (
            token is not None and len(token.get_secret_value()) < _TOKEN_CHARACTERS_MIN,
            (
                f"FORWARDER_OPERATOR_TOKEN has fewer than {_TOKEN_CHARACTERS_MIN} characters. "
                "Set a long random one (openssl rand -hex 32)."
            ),
        ),
        (
            bool({"FORWARDER_NATS_URL", "FORWARDER_NATS_MONITOR_URL"} & given) and settings.spool == "sqlite",
            "FORWARDER_NATS_URL is set but FORWARDER_SPOOL is sqlite: it is not used.",
        ),
        (
            "FORWARDER_LINKS" in given and "FORWARDER_INBOUND_KEYS" not in given,
            "FORWARDER_LINKS is set but the route rudderstack_to_courier is off: it is not used.",
        ),
    )
    return [text for is_doubtful, text in judged if is_doubtful]
