"""What one setting's text may look like: pure parsers that say what is wrong without showing a secret.

Each takes the text and returns the value, or raises `ValueError` with the problem alone; the remedy
belongs to the setting.
"""

import ipaddress
import json
import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr

from forwarder.spool.postgres.database_url import DatabaseUrl

_PORT_MAX = 65_535
_RECIPIENTS_MAX = 10
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
_PLACEHOLDER = re.compile(r"replace-me.*|.*….*|change-?me", re.IGNORECASE)
# What config.example.env, deploy/, README.md and docs/ show in the place of a value.
_PLACEHOLDERS = frozenset(
    {
        "https://example.dataplane.rudderstack.com",
        "https://bridge.example.com",
        "https://your.host",
        "tls://nats.example.com:4222",
        "rediss://redis.example.com:6380/0",
        "<key>",
    }
)
_GATEWAY_PATH = re.compile(r"/v1/(batch|track|identify|import)/?$")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `port` 0 lets the system choose a free one."""

    host: str
    port: int

    def is_loopback(self) -> bool:
        """Tell whether only this machine can reach it."""
        return is_loopback(self.host)

    def covers(self, other: "Address") -> bool:
        """Tell whether listening here serves the other address too; `::` is every address of both stacks."""
        hosts = (other.host, "::") if ":" in other.host else (other.host, "0.0.0.0", "::")  # noqa: S104  recognised, not bound
        return self.port == other.port != 0 and self.host in hosts

    def overlaps(self, other: "Address") -> bool:
        """Tell whether both cannot be listened on at once."""
        return self.covers(other) or other.covers(self)

    def local(self) -> "Address":
        """Return where this machine reaches it: who listens everywhere is asked on loopback."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  recognised, not bound
        return Address(loopback.get(self.host, self.host), self.port)

    def url(self) -> str:
        """Return the URL at which this machine reaches it."""
        return f"http://{self.local()}"

    def __str__(self) -> str:
        """Write it as it is set: `host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address never leaves this machine."""
    if host.casefold().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(text: str) -> Address:
    """Read `host:port`; `:port` listens everywhere, IPv6 goes in brackets."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
        raise ValueError("it has no port between 0 and 65535")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets")
    if any(character.isspace() or character == "/" for character in host):
        raise ValueError("the host is no name or address")
    return Address(host or "0.0.0.0", int(port))  # noqa: S104  an empty host asks for every interface


def addresses(text: str) -> tuple[Address, ...]:
    """Read addresses separated by commas; one that a wildcard among them serves already is left out."""
    found = tuple(dict.fromkeys(address(part.strip()) for part in text.split(",") if part.strip()))
    if not found:
        raise ValueError("it holds no address between its commas")
    return tuple(one for one in found if not any(other != one and other.covers(one) for other in found))


def base_url(text: str) -> str:
    """Read a vendor's base URL; the trailing slash goes. Plain http is for loopback only."""
    parts = _web_url(text, credentials="it contains credentials, which would end in logs")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("plain http would send the key unencrypted")
    if _GATEWAY_PATH.search(parts.path):
        raise ValueError("it names an endpoint instead of the base URL")
    return text.rstrip("/")


def alert_url(text: str) -> SecretStr:
    """Read where alerts are posted to. All of it is a secret: the path or the query of such an address is its key."""
    parts = _web_url(text, credentials="it contains credentials")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("plain http would send its key unencrypted")
    return SecretStr(text)


def postgres_url(text: str) -> SecretStr:
    """Read where the database is. All of it is a secret: most hold a password."""
    DatabaseUrl.parse(text)
    return SecretStr(text)


def no_blank(text: str) -> str:
    """Read an id."""
    if any(character.isspace() for character in text):
        raise ValueError("it contains a blank")
    return text


def recipients(text: str) -> tuple[str, ...]:
    """Read users' ids and e-mail addresses separated by commas."""
    found = tuple(no_blank(name) for name in names(text))
    if len(found) > _RECIPIENTS_MAX:
        raise ValueError(f"it names more than {_RECIPIENTS_MAX}")
    return found


def public_url(text: str) -> str:
    """Read the URL under which others reach this daemon; the trailing slash goes."""
    _web_url(text, credentials="it contains credentials, which would be shown")
    if "?" in text or "#" in text:
        raise ValueError("it has a query or a fragment")
    return text.rstrip("/")


def _web_url(text: str, *, credentials: str) -> SplitResult:
    parts = _url(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it does not start with https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError(credentials)
    return parts


def _url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if not parts.hostname or port == 0 or any(character.isspace() for character in text):
        raise ValueError("it is no URL with a host")
    return parts


def refuse_odd(text: str) -> None:
    """Raise `ValueError` for what `docker --env-file`, secret files and examples bring in that no value means."""
    if invisible := next((one for one in text if unicodedata.category(one) in ("Cc", "Cf") and not one.isspace()), ""):
        name = "a byte order mark" if invisible == "\ufeff" else f"U+{ord(invisible):04X}"
        raise ValueError(f"it contains an invisible character ({name})")
    if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES:
        raise ValueError("it begins and ends with a quote, which is taken as part of it")
    if is_placeholder(text) or any(is_placeholder(part.strip(' "[]')) for part in text.split(",")):
        raise ValueError("it is the placeholder of an example")
    if not text.startswith("[") and re.search(r"\s#", text):
        raise ValueError("it contains what looks like a comment ( #), which is taken as part of it")


def is_placeholder(text: str) -> bool:
    """Tell whether this is what our examples show in the place of a value."""
    return text.rstrip("/") in _PLACEHOLDERS or _PLACEHOLDER.fullmatch(text) is not None


def revealed(secret: SecretStr | None) -> str:
    """Return the text of a secret; "" where none is given."""
    return secret.get_secret_value() if secret else ""


def header_secret(text: str) -> SecretStr:
    """Read a secret that travels in a header: printable ASCII without spaces."""
    if not _HEADER_SAFE.fullmatch(text):
        raise ValueError("it contains a space or a character that no header can carry")
    return SecretStr(text)


def secret_list(text: str) -> tuple[SecretStr, ...]:
    """Read secrets separated by commas, or a JSON array of strings where one contains a comma."""
    if text.startswith("["):
        return _secret_array(text)
    found = tuple(SecretStr(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("it holds no secret between its commas")
    if any(character.isspace() for one in found for character in one.get_secret_value()):
        raise ValueError("a secret in it contains a blank (one that truly does goes into a JSON array)")
    return found


def _secret_array(text: str) -> tuple[SecretStr, ...]:
    try:
        parsed = json.loads(text)
    except ValueError:
        # The parser's own words would quote the secret.
        raise ValueError("it starts with [ but is no JSON array") from None
    if not isinstance(parsed, list) or not parsed or not all(isinstance(one, str) and one for one in parsed):
        raise ValueError("its JSON array does not hold non-empty strings alone")
    return tuple(SecretStr(one) for one in parsed)


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas, each once, in their order."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise ValueError("it holds no name between its commas")
    return found
