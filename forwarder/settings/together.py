"""What only several settings together can get wrong. Pure.

`conflicts` are errors: the daemon would run into them. `doubts` are what `forwarder check` warns of.
"""

from collections.abc import Collection, Iterator

from forwarder.model import RouteName
from forwarder.settings.buses import SWITCHES, bus_conflicts, bus_doubts
from forwarder.settings.operators import Role
from forwarder.settings.route_choice import route_problems
from forwarder.settings.settings import Settings
from forwarder.spool.postgres.database_url import DatabaseUrl

_TOKEN_CHARACTERS_MIN = 16
_SPOOL_BYTES_LEAST = 262_144  # an empty spool takes half of it
_LONGER = "Set a long random one (openssl rand -hex 32)."
_WHO = frozenset(("FORWARDER_OPERATOR_TOKEN", "FORWARDER_OPERATOR_TOKENS", "FORWARDER_OPERATOR_USER_HEADER"))
# Tried: after a rotation as it is usually done, 0 of 60 waiting events were accepted.
KEEP_OLD_INBOUND_KEYS = (
    "when you rotate a key, keep naming the old one beside the new until RudderStack has nothing left to deliver: its "
    "Webhook and Courier destinations write the header when an event is processed, so waiting events carry the old "
    "key, and each holds back its user's later ones. Its HTTP Webhook writes the header at delivery: prefer that"
)


def conflicts(settings: Settings, *, given: Collection[str], wrong: Collection[str]) -> list[str]:
    """Return errors between settings; `wrong` ones are reported already and count as given."""
    problems = []
    if "FORWARDER_ROUTES" not in wrong:
        problems += [f"FORWARDER_ROUTES: {text}" for text in route_problems(given, settings.routes_asked)]
    if settings.spool == "postgres" and "FORWARDER_POSTGRES_URL" not in given:
        problems.append(
            "FORWARDER_SPOOL: postgres needs FORWARDER_POSTGRES_URL. Set postgresql://user:password@host:5432/database."
        )
    through_courier = {"FORWARDER_ALERT_TEMPLATE", "FORWARDER_ALERT_TO"}
    if through_courier & set(given) and (missing := (through_courier | {"COURIER_API_KEY"}) - set(given)):
        problems.append(
            f"{min(through_courier & set(given))}: alerts through Courier also need {' and '.join(sorted(missing))}. "
            "Set what is missing, or use FORWARDER_ALERT_URL alone."
        )
    if not settings.operator_listen.is_loopback() and not _WHO.intersection(given):
        problems.append(
            f"FORWARDER_OPERATOR_TOKEN: it is unset while FORWARDER_OPERATOR_LISTEN ({settings.operator_listen}) can "
            "be reached from other machines. Set a long random token (openssl rand -hex 32), or "
            "FORWARDER_OPERATOR_TOKENS or _USER_HEADER, or listen on 127.0.0.1."
        )
    shared = settings.operator_token
    if shared is not None and shared in [one.token for one in settings.named_tokens() if one.role is not Role.OPERATE]:
        problems.append(
            "FORWARDER_OPERATOR_TOKEN: it is also in FORWARDER_OPERATOR_TOKENS with the role view, so nobody could "
            "tell which is meant. Set another one."
        )
    problems += [
        f"FORWARDER_OPERATOR_LISTEN: {settings.operator_listen} is taken by FORWARDER_LISTEN ({one}). Set another port."
        for one in settings.listen
        if one.overlaps(settings.operator_listen)
    ]
    problems += bus_conflicts(settings, given)
    return problems + _unusable_proxies(settings)


def destinations(settings: Settings) -> list[str]:
    """Return the URLs that routes and alerts send to."""
    asked = (
        (RouteName.COURIER_TO_RUDDERSTACK in settings.routes, settings.rudderstack_data_plane_url),
        (
            RouteName.RUDDERSTACK_TO_COURIER in settings.routes or settings.alert_template is not None,
            settings.courier_api_url,
        ),
        (True, settings.alert_url.get_secret_value() if settings.alert_url else None),
    )
    return [url for is_used, url in asked if url and is_used]


def _tokens(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield what each token is called and how long it is."""
    if settings.operator_token is not None:
        yield "FORWARDER_OPERATOR_TOKEN", len(settings.operator_token)
    for one in settings.named_tokens():
        yield f"FORWARDER_OPERATOR_TOKENS: the token of {one.name}", len(one.token)


def _unusable_proxies(settings: Settings) -> list[str]:
    used = [proxy for url in destinations(settings) if (proxy := settings.reading.proxies.of(url))]
    return list(dict.fromkeys(problem for proxy in used if (problem := proxy.problem())))


def cap_doubts(settings: Settings) -> list[str]:
    """Return why the spool's cap leaves no room for events; it is said at the start, too."""
    if settings.spool_bytes_max >= _SPOOL_BYTES_LEAST:
        return []
    return [
        (
            f"FORWARDER_SPOOL_BYTES_MAX ({settings.spool_bytes_max}) is hardly more than an empty spool takes: new "
            f"events are refused. Set {_SPOOL_BYTES_LEAST} or more."
        )
    ]


def doubts(settings: Settings) -> list[str]:
    """Return what is allowed but probably not meant, each naming its variable and the remedy."""
    given = settings.given()
    judged = (
        (
            "COURIER_API_KEY" in given and not {"FORWARDER_INBOUND_KEYS", "FORWARDER_ALERT_TEMPLATE"} & given,
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
            settings.body_bytes_max > settings.spool_bytes_max // 4 and not cap_doubts(settings),
            (
                "FORWARDER_BODY_BYTES_MAX is more than a quarter of FORWARDER_SPOOL_BYTES_MAX: a few requests fill the "
                "spool. Raise the spool's cap."
            ),
        ),
        *(
            (
                length < _TOKEN_CHARACTERS_MIN,
                f"{variable} has fewer than {_TOKEN_CHARACTERS_MIN} characters. {_LONGER}",
            )
            for variable, length in _tokens(settings)
        ),
        (
            "FORWARDER_ALERT_TEMPLATE" in given and "FORWARDER_ALERT_URL" not in given,
            (
                "FORWARDER_ALERT_TEMPLATE is set but FORWARDER_ALERT_URL is not: while Courier is what fails, nobody "
                "is told. Set both."
            ),
        ),
        *bus_doubts(settings),
        *(
            (
                variable in given and RouteName.COURIER_TO_RUDDERSTACK not in settings.routes,
                f"{variable} is set but the route courier_to_rudderstack is off: nothing is taken from there.",
            )
            for variable in SWITCHES
        ),
        *_database_doubts(settings),
        (
            "FORWARDER_LINKS" in given and "FORWARDER_INBOUND_KEYS" not in given,
            "FORWARDER_LINKS is set but the route rudderstack_to_courier is off: it is not used.",
        ),
    )
    return [*settings.reading.notices, *cap_doubts(settings), *(text for is_doubtful, text in judged if is_doubtful)]


def _database_doubts(settings: Settings) -> Iterator[tuple[bool, str]]:
    url = settings.postgres_url
    is_used = settings.spool == "postgres"
    yield (
        url is not None and not is_used,
        "FORWARDER_POSTGRES_URL is set but FORWARDER_SPOOL is not postgres: events are kept in FORWARDER_DATA_DIR.",
    )
    yield (
        is_used and url is not None and not DatabaseUrl.parse(url.get_secret_value()).proves_server,
        (
            "FORWARDER_POSTGRES_URL: nothing proves that the server is the one meant, and who is between may read "
            "along. Add sslmode=verify-full and sslrootcert=FILE (or =system)."
        ),
    )
