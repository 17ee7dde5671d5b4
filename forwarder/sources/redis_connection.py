"""How Redis is reached (TLS, logins, time-outs), and in whose words it is said that it is not."""

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from forwarder.errors import SourceAway

_CONNECT_MAX_S: Final = 10.0
_COMMAND: Final = re.compile(r"the '([a-z|]+)' command")
_REFUSED: Final = {  # by the first word of Redis' error
    "WRONGTYPE": "the key is there, but no stream",
    "NOGROUP": "the consumer group is gone, or was never made",
    "NOAUTH": "Redis refuses the login",
    "WRONGPASS": "Redis refuses the login",
}
_FAILED: Final[Sequence[tuple[tuple[type[Exception], ...], str]]] = (  # the first that fits
    ((exceptions.AuthenticationError, exceptions.AuthorizationError), "Redis refuses the login"),
    ((exceptions.TimeoutError, TimeoutError), "Redis does not answer in time"),
    ((exceptions.BusyLoadingError,), "Redis is loading its data"),
    ((exceptions.ReadOnlyError,), "this Redis is a replica, which cannot be written to"),
    ((exceptions.AskError, exceptions.ClusterDownError), "this Redis is a cluster, and a cluster is not spoken to"),
    ((exceptions.ConnectionError, OSError), "Redis cannot be reached"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Whom to read. No repr of the URL: it may hold a password."""

    url: str = field(repr=False)  # redis://, rediss:// or unix://, with user, password and database
    streams: Sequence[str]
    group: str = "forwarder"
    consumer: str  # the same after a restart, and of this daemon alone
    ca_file: Path | None = None
    cert_file: Path | None = None  # with `key_file`: what the server knows us by
    key_file: Path | None = None


def client(settings: RedisSettings, *, answer_max_s: float) -> Redis:
    """Return a client that connects when first used and repeats nothing by itself: a repeated read loses the first."""
    options: dict[str, Any] = {}
    if urlsplit(settings.url).scheme == "rediss":
        options |= {"ssl_ca_certs": _path(settings.ca_file), "ssl_min_version": ssl.TLSVersion.TLSv1_2}
        options |= {"ssl_certfile": _path(settings.cert_file), "ssl_keyfile": _path(settings.key_file)}
        options["ssl_password"] = ""  # else a key with one has it asked of a terminal
    pool = ConnectionPool.from_url(
        settings.url,
        max_connections=4,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        socket_connect_timeout=_CONNECT_MAX_S,
        socket_timeout=answer_max_s,
        **options,
    )
    return Redis.from_pool(pool)


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)


def away(error: Exception) -> SourceAway:
    """Say what is the matter in words of our own: the library's may quote the URL."""
    said = str(error)
    word = said.partition(" ")[0]
    if word in _REFUSED:
        return SourceAway(_REFUSED[word])
    if isinstance(error, exceptions.NoPermissionError):
        command = _COMMAND.search(said)
        return SourceAway(f"this Redis user may not {f'run {command[1]}' if command else 'touch the stream'}")
    if said.startswith("unknown command"):
        return SourceAway("this Redis is older than 6.2, or has no streams")
    text = next((text for kinds, text in _FAILED if isinstance(error, kinds)), None)
    # The first word of Redis' errors is a code; whatever else it says is not repeated.
    return SourceAway(text or f"Redis answers with an error ({word if word.isalpha() and word.isupper() else 'ERR'})")
