"""What FORWARDER_POSTGRES_URL may hold: a URL as libpq takes it, with one or several hosts. Pure.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_PORT: Final = 5432
_PORT_MAX: Final = 65_535
_HOST_MAX_S: Final = 5.0
_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SYSTEM: Final = "system"
_OF_TLS: Final = frozenset(
    (
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    )
)
_INSTEAD: Final = {"host", "port", "user", "password", "dbname"}  # of the parts before the question mark
_KNOWN: Final = _OF_TLS | _INSTEAD | {"passfile", "connect_timeout", "target_session_attrs"}
_WRITES: Final = {"any", "primary", "read-write"}  # what is asked for all the same: one that takes writes
# Common in URLs that are copied from somewhere, and without a meaning here.
_IGNORED: Final = frozenset(
    (
        *("application_name", "gssencmode", "tcp_user_timeout"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    )
)


class DatabaseUrlInvalid(ValueError):
    """It is no URL that can be used; the text says what is wrong and never quotes a value."""


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name, an address, or the folder of a socket (begins with a slash)."""

    name: str
    port: int

    def __str__(self) -> str:
        """Show it as a URL has it."""
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Tell whether nobody but this machine sees what is said."""
        if self.name.startswith("/") or self.name == "localhost":
            return True
        try:
            return ip_address(self.name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """One database on one or several hosts, in the order in which they are tried."""

    hosts: tuple[Host, ...]
    database: str
    user: str
    password: str | None = field(repr=False)  # None: from `passfile`, PGPASSWORD or ~/.pgpass
    passfile: str | None
    tls: Mapping[str, str] = field(repr=False)  # libpq's parameters; `sslpassword` is a secret
    host_max_s: float  # how long one host may take to let us in

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it. Raises `DatabaseUrlInvalid`."""
        try:
            parts = urlsplit(text)
            asked = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
        except ValueError:
            raise DatabaseUrlInvalid("it is no URL (percent-encode what is special in a password)") from None
        if parts.scheme not in {"postgresql", "postgres"}:
            raise DatabaseUrlInvalid("it does not begin with postgresql://")
        if parts.fragment:
            raise DatabaseUrlInvalid("it has a # (write it as %23 in a password)")
        _judge(asked)
        login, _, hosts = parts.netloc.rpartition("@")
        user, has_password, password = login.partition(":")
        user = asked.get("user") or unquote(user)
        database = asked.get("dbname") or unquote(parts.path.removeprefix("/"))
        if not user:
            raise DatabaseUrlInvalid("it names no user")
        return cls(
            hosts=_hosts(hosts or asked.get("host", ""), asked.get("port", "")),
            database=database or user,
            user=user,
            password=asked.get("password") or (unquote(password) if has_password else None),
            passfile=asked.get("passfile"),
            tls={name: value for name, value in asked.items() if name in _OF_TLS},
            host_max_s=_seconds(asked.get("connect_timeout", "")),
        )

    @property
    def proves_server(self) -> bool:
        """Tell whether every host that is not this machine must prove by its certificate that it is the one meant."""
        mode = self.tls.get("sslmode", "verify-full" if self.takes_system_roots else "prefer")
        return mode == "verify-full" or all(host.is_local for host in self.hosts)

    @property
    def takes_system_roots(self) -> bool:
        """Tell whether the certificate is judged by the machine's own roots (`sslrootcert=system`)."""
        return self.tls.get("sslrootcert") == _SYSTEM

    @property
    def tls_query(self) -> str:
        """Return the parameters of TLS as a URL has them."""
        return urlencode(self.tls)


def _judge(asked: Mapping[str, str]) -> None:
    if unknown := sorted(asked.keys() - _KNOWN - _IGNORED - {"channel_binding"}):
        raise DatabaseUrlInvalid(f"there is no parameter {unknown[0]} here: remove it")
    if asked.get("channel_binding") == "require":
        raise DatabaseUrlInvalid("channel_binding=require is not supported: remove it, and set sslmode=verify-full")
    if asked.get("target_session_attrs", "any") not in _WRITES:
        raise DatabaseUrlInvalid("target_session_attrs must be read-write: remove it")
    mode = asked.get("sslmode", _MODES[-1])
    if mode not in _MODES:
        raise DatabaseUrlInvalid(f"sslmode must be one of {', '.join(_MODES)}")
    if asked.get("sslrootcert") == _SYSTEM and mode != _MODES[-1]:
        raise DatabaseUrlInvalid("sslrootcert=system needs sslmode=verify-full")  # as libpq has it: anyone has those


def _hosts(text: str, ports: str) -> tuple[Host, ...]:
    named = text.split(",") if text else []
    if not named:
        raise DatabaseUrlInvalid("it names no host")
    usual = ports.split(",") if ports else [""]
    if len(usual) == 1:
        usual *= len(named)
    if len(usual) != len(named):
        raise DatabaseUrlInvalid("it names more or fewer ports than hosts")
    return tuple(_host(unquote(one), port) for one, port in zip(named, usual, strict=True))


def _host(text: str, usual: str) -> Host:
    name, port = text, ""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif not text.startswith("/"):
        name, _, port = text.partition(":")
    number = port or usual or str(_PORT)
    if not name or not (number.isascii() and number.isdigit() and 0 < int(number) <= _PORT_MAX):
        raise DatabaseUrlInvalid("one of its hosts is not of the form name:port")
    return Host(name, int(number))


def _seconds(text: str) -> float:
    if not text:
        return _HOST_MAX_S
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise DatabaseUrlInvalid("connect_timeout must be a whole number of seconds above 0")
    return float(text)
