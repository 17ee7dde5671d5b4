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

# Names of the public contract whose part is not built yet: who sets one must not believe that it works.
_LATER = {
    "FORWARDER_POSTGRES_": "postgres spool",
    "FORWARDER_NATS_": "NATS source",
    "FORWARDER_KAFKA_": "Kafka source",
    "FORWARDER_REDIS_": "Redis source",
}

# What Kubernetes injects into every container for services that happen to be named like our prefixes.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_KUBERNETES = re.compile(
    r"[A-Z0-9_]+?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def unknown(found: Mapping[str, Found], known: Collection[str]) -> list[str]:
    """Return the variables that mean nothing to us, each with the one that was probably meant."""
    return [
        _not_in_this_version(one) or _no_such_setting(one, known)
        for variable, one in found.items()
        if variable not in known and not is_of_kubernetes(variable)
    ]


def _not_in_this_version(found: Found) -> str | None:
    what = next((what for prefix, what in _LATER.items() if found.variable.startswith(prefix)), None)
    return what and f"{found.variable}: this version has no {what} yet. Remove it ({found.origin})."


def _no_such_setting(found: Found, known: Collection[str]) -> str:
    meant = _meant(found.variable, known)
    return f"{found.variable}: there is no such setting{meant}. Remove it, or correct its name ({found.origin})."


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
    if settings.spool == "postgres":
        problems.append("FORWARDER_SPOOL: this version has no postgres spool yet. Set sqlite, or leave it unset.")
    if not settings.operator_listen.is_loopback() and "FORWARDER_OPERATOR_TOKEN" not in given:
        problems.append(
            f"FORWARDER_OPERATOR_TOKEN: it is unset while FORWARDER_OPERATOR_LISTEN ({settings.operator_listen}) can "
            "be reached from other machines. Set a long random token (openssl rand -hex 32), or listen on 127.0.0.1."
        )
    problems += [
        f"FORWARDER_OPERATOR_LISTEN: {settings.operator_listen} is taken by FORWARDER_LISTEN ({one}). Set another port."
        for one in settings.listen
        if one.overlaps(settings.operator_listen)
    ]
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
            "FORWARDER_LINKS" in given and "FORWARDER_INBOUND_KEYS" not in given,
            "FORWARDER_LINKS is set but the route rudderstack_to_courier is off: it is not used.",
        ),
    )
    return [text for is_doubtful, text in judged if is_doubtful]
