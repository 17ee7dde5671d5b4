"""The proxies that the environment names for the vendors, read as curl reads them.

`https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in small letters before capitals. A proxy without a scheme is
an HTTP proxy. `transport` speaks to it.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_SPOKEN = ("http", "https")


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy and the variable that names it. No repr of the URL: it may hold a password."""

    variable: str
    url: str

    def __repr__(self) -> str:
        """Show the variable alone."""
        return f"Proxy({self.variable})"

    def problem(self) -> str | None:
        """Return why requests cannot go through it, with the remedy; None when they can. Shows no credential."""
        parts = _split(self.url)
        if parts is None:
            what = "it is no proxy's URL"
        elif parts.scheme not in _SPOKEN:
            what = f"{parts.scheme}:// proxies are not spoken to"
        else:
            return None
        return f"{self.variable}: {what}. Set http://host:port, or name the vendor's host in NO_PROXY."


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy a URL is reached through. `by_scheme` is of the URL; `direct` are the hosts reached without."""

    by_scheme: Mapping[str, Proxy]
    direct: tuple[str, ...] = ()

    def of(self, url: str) -> Proxy | None:
        """Return the proxy for a vendor's URL; None when it is reached directly."""
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        return (
            None if any(_matches(host, parts.port, rule) for rule in self.direct) else self.by_scheme.get(parts.scheme)
        )

    def url_for(self, url: str) -> str | None:
        """Return the URL of the proxy for a vendor's URL; None when it is reached directly."""
        proxy = self.of(url)
        return proxy.url if proxy else None


NO_PROXIES = Proxies({})


def read_proxies(environ: Mapping[str, str]) -> Proxies:
    """Read the variables; nothing is judged until a vendor's URL asks for a proxy."""
    by_scheme = {
        scheme: proxy
        for scheme in _SPOKEN
        if (proxy := _first(environ, f"{scheme}_proxy") or _first(environ, "all_proxy"))
    }
    direct = _first(environ, "no_proxy")
    return Proxies(by_scheme, tuple(direct.url.replace(",", " ").casefold().split()) if direct else ())


def _first(environ: Mapping[str, str], name: str) -> Proxy | None:
    for variable in (name, name.upper()):
        if text := environ.get(variable, "").strip():
            is_list = name == "no_proxy"
            return Proxy(variable, text if is_list or "://" in text else f"http://{text}")
    return None


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None


def _matches(host: str, port: int | None, rule: str) -> bool:
    """Tell whether a rule of `no_proxy` names the host: itself, a domain above it, a network, or `*` for all."""
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(rule.strip("[]"), strict=False)
    except ValueError:
        name, _, of_port = rule.lstrip("*").lstrip(".").partition(":")
        return of_port in ("", str(port)) and (host == name or host.endswith(f".{name}"))
