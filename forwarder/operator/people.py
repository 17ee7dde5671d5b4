"""Who is there, and what they may do: by a token, by the login that a token opened, or by the proxy's word.

A login stands for the token it was made with: when that is replaced, or its role changes, so is every login.
"""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from aiohttp import web

from forwarder.operator.logins import Logins, Memory
from forwarder.ports import Clock
from forwarder.settings.operators import NamedToken, Role

COOKIE: Final = "forwarder_session"
NAME_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks. `name` is "" where nobody said; `way` is how it is known: "", "shared token", "token" or "proxy"."""

    name: str = ""
    role: Role = Role.VIEW
    way: str = ""
    is_logged_in: bool = False  # by the page's login, so that there is something to log out of

    @property
    def may_act(self) -> bool:
        """Tell whether they may do more than look."""
        return self.role is Role.OPERATE


_PERSON: Final = web.RequestKey("person", Person)
NOBODY: Final = Person()
ANYBODY: Final = Person(role=Role.OPERATE)  # whoever reaches a listener that asks nobody who he is


class People:
    """The tokens in force and the logins that they opened, which all replicas with one `memory` share."""

    def __init__(
        self,
        *,
        clock: Clock,
        memory: Memory | None = None,
        shared: str | None = None,
        named: Iterable[NamedToken] = (),
    ) -> None:
        self._by_token: dict[bytes, Person] = {}
        self._logins = Logins(clock, memory)
        self.replace_tokens(shared, named)

    def __repr__(self) -> str:
        """Show how many, never which."""
        return f"People({len(self._by_token)} tokens, {len(self._logins)} logins)"

    @property
    def have_tokens(self) -> bool:
        """Tell whether there is a token, and so a login."""
        return bool(self._by_token)

    @property
    def have_shared_token(self) -> bool:
        """Tell whether there is a token that does not say whose it is."""
        return any(not person.name for person in self._by_token.values())

    @property
    def have_named_tokens(self) -> bool:
        """Tell whether there is one that does."""
        return any(person.name for person in self._by_token.values())

    def replace_tokens(self, shared: str | None, named: Iterable[NamedToken]) -> None:
        """Take these tokens and no others; a login whose token is gone counts no more."""
        tokens = {one.token.get_secret_value(): Person(name=one.name, role=one.role, way="token") for one in named}
        if shared:
            tokens.setdefault(shared, Person(role=Role.OPERATE, way="shared token"))
        self._by_token = {_digest(token): person for token, person in tokens.items()}

    def by_token(self, given: str) -> Person | None:
        """Return whose token this is. Every token is compared, each in constant time."""
        digest, found = _digest(given), None
        for known, person in self._by_token.items():
            if hmac.compare_digest(digest, known):
                found = person
        return found

    async def log_in(self, token: str, name: str = "") -> str:
        """Begin a login with a token that `by_token` knows; return the cookie's value, which is kept nowhere here.

        `name` is who it is by his own word: it counts where the token has no name.
        """
        return await self._logins.begin(_digest(token), cleaned(name))

    async def look(self, cookies: Mapping[str, str]) -> None:
        """Learn of the login of these cookies, if another replica began it. Before `logged_in`."""
        await self._logins.look(cookies.get(COOKIE, ""))

    def logged_in(self, cookies: Mapping[str, str]) -> Person | None:
        """Return whose login these cookies are, if it lives. Time tells nothing: only digests are compared."""
        found = self._logins.find(cookies.get(COOKIE, ""), self._by_token)
        if found is None:
            return None
        token, name = found
        person = self._by_token[token]
        return replace(person, name=person.name or name, is_logged_in=True)

    async def log_out(self, cookies: Mapping[str, str]) -> None:
        """End the login of these cookies, if there is one."""
        await self._logins.end(cookies.get(COOKIE, ""))


def set_person(request: web.Request, person: Person) -> None:
    """Note who asks; the listener does, before anything else looks at the request."""
    request[_PERSON] = person


def person_of(request: web.Request) -> Person:
    """Return who asks; nobody while that was not judged."""
    person: Person = request.get(_PERSON, NOBODY)
    return person


def who(request: web.Request) -> str:
    """Return who asks, for the audit log: the name, what a program says of itself, how it is known, the address."""
    person = person_of(request)
    said = cleaned(request.headers.get("X-Forwarder-Operator", ""))
    names = ", ".join(filter(None, (person.name, said))) or ("api" if request.path.startswith("/api/") else "page")
    return f"{names} ({', '.join(filter(None, (person.way, request.remote or 'unknown')))})"


def cleaned(name: str) -> str:
    """Return a name without what could pass for another's line of the audit log, cut to 64 characters."""
    return "".join(char for char in name if char.isprintable() and char not in "()").strip()[:NAME_MAX]


def _digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "replace")).digest()
