"""Who may use the operator's listener: named tokens with a role, and a proxy that names its users. Pure.

Each parser says what is wrong without showing a token; the remedy belongs to the setting.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import SecretStr

from forwarder.settings.values import header_secret, is_placeholder, secret_list

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
# What browsers and proxies send by themselves names nobody.
_NO_USER: Final = re.compile(
    "accept.*|authorization|connection|content-.*|cookie|forwarded|host|origin|referer|sec-.*|user-agent"
    "|x-forwarded-(for|host|proto)|x-forwarder-operator|x-real-ip",
    re.IGNORECASE,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Role(StrEnum):
    """What somebody may do: look, or look and act."""

    VIEW = "view"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A token, whose it is and what its owner may do."""

    name: str
    role: Role
    token: SecretStr


@dataclass(frozen=True, slots=True)
class UserHeader:
    """The header in which a proxy at one of these networks names its user, and what such users may do."""

    name: str
    role: Role
    networks: tuple[Network, ...]

    def trusts(self, address: str) -> bool:
        """Tell whether this peer is such a proxy."""
        try:
            peer = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self.networks)

    def __str__(self) -> str:
        """Write it as it is set."""
        return f"{self.name}:{self.role.value}={','.join(map(str, self.networks))}"


def named_token(text: str) -> NamedToken:
    """Read `name:role:token`; the token may hold colons. Errors show nothing of it: its parts may be in any order."""
    name, _, rest = text.partition(":")
    role, separator, token = rest.partition(":")
    if not separator:
        raise ValueError("it is not name:role:token")
    if not _NAME.fullmatch(name):
        raise ValueError("its name is not of letters, digits and ._@+- (at most 64)")
    if is_placeholder(token):
        raise ValueError("its token is the placeholder of an example")
    return NamedToken(name, _role(role), header_secret(token))


def named_tokens(text: str) -> tuple[SecretStr, ...]:
    """Read entries separated by commas, or as a JSON array; each is whole, for `named_token`."""
    entries, tokens = secret_list(text), set()
    for number, entry in enumerate(entries, 1):
        try:
            tokens.add(named_token(entry.get_secret_value()).token.get_secret_value())
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    if len(tokens) < len(entries):
        raise ValueError("two entries have the same token, so nobody could tell who it is")
    return entries


def user_header(text: str) -> UserHeader:
    """Read `Header=address,network,…` or `Header:role=…`; without a role whoever the proxy names may operate."""
    left, separator, right = text.partition("=")
    name, _, role = left.strip().partition(":")
    if not _HEADER.fullmatch(name) or _NO_USER.fullmatch(name):
        raise ValueError("it does not begin with a header that only the proxy sets")
    given = [part.strip() for part in right.split(",") if part.strip()]
    if not separator or not given:
        raise ValueError("it does not say from which addresses the header is believed")
    return UserHeader(name, _role(role) if role else Role.OPERATE, tuple(map(_network, given)))


def _role(text: str) -> Role:
    try:
        return Role(text.strip().casefold())
    except ValueError:
        raise ValueError("its role is neither view nor operate") from None


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no address, and no network whose host bits are 0") from None
    if network.prefixlen == 0:
        raise ValueError(f"{text} is every address there is, so anybody could name himself")
    return network
