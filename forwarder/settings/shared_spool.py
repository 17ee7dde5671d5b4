"""What the settings of the Postgres spool can get wrong together. Pure."""

from collections.abc import Collection, Iterator

from forwarder.settings.settings import Settings
from forwarder.spool.postgres.database_url import DatabaseUrl


def database_conflicts(settings: Settings, given: Collection[str]) -> Iterator[str]:
    """Yield what only several of these settings together can get wrong."""
    if settings.spool == "postgres" and "FORWARDER_POSTGRES_URL" not in given:
        yield (
            "FORWARDER_SPOOL: postgres needs FORWARDER_POSTGRES_URL. Set postgresql://user:password@host:5432/database."
        )


def database_doubts(settings: Settings) -> Iterator[tuple[bool, str]]:
    """Yield what is allowed but probably not meant, each with whether it is so."""
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
