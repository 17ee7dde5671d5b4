"""One operation of the operator's side: a route, the types that it takes and answers, and who carries it out.

The types are the only description there is: requests are read by them, answers are written from them, and the
OpenAPI document is made of them (`openapi`).
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web

from forwarder.errors import ForwarderError
from forwarder.operator.people import person_of

_SEQUENCE_DIGITS_MAX: Final = 18
_ECHO_MAX: Final = 40
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
VIEW_ONLY: Final = "your role is view: you may look at everything and change nothing. This needs the role operate."
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)

Taken = TypeVar("Taken", bound=msgspec.Struct)
Handler = Callable[..., Awaitable[msgspec.Struct | web.StreamResponse]]


class QueryInvalid(ForwarderError):
    """A request asks for something impossible; the text says what to write."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What can be asked at one path, or a page of it.

    `handler` gets the request and, where its second parameter has a type, what was read of it: the query of a GET, the
    JSON of a POST, or its form. It returns a type, which is answered as JSON, or an answer of its own.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    handler: Handler
    form: str = ""  # media type of the form that is posted; "" for JSON
    description: str = ""
    is_act: bool | None = None  # whether only who may act may ask; None: every POST is an act, but for a dry run

    @property
    def needs_operate(self) -> bool:
        """Tell whether somebody who may only look is refused."""
        return self.method == "POST" if self.is_act is None else self.is_act

    @property
    def takes(self) -> type[msgspec.Struct] | None:
        """Return the type of what is sent along; None for nothing."""
        return next((kind for kind in self._types(is_answer=False) if issubclass(kind, msgspec.Struct)), None)

    @property
    def answers(self) -> type[msgspec.Struct] | None:
        """Return the type of the answer; None for an answer that is no JSON."""
        return next((kind for kind in self._types(is_answer=True) if issubclass(kind, msgspec.Struct)), None)

    @property
    def is_described(self) -> bool:
        """Tell whether the OpenAPI document names it: all changes, and what programs read."""
        return self.method == "POST" or self.path.startswith(("/api/", "/metrics"))

    def route(self) -> web.RouteDef:
        """Return the route that reads, carries out and answers."""
        takes = self.takes

        async def carried_out(request: web.Request) -> web.StreamResponse:
            is_refused = self.needs_operate and not person_of(request).may_act
            if is_refused and not await self._is_dry_run(request, takes):
                raise web.HTTPForbidden(reason=VIEW_ONLY)
            given = () if takes is None else (await self._read(request, takes),)
            made = await self.handler(request, *given)
            if isinstance(made, web.StreamResponse):
                return made
            return web.Response(body=msgspec.json.encode(made), content_type="application/json", charset="utf-8")

        return web.get(self.path, carried_out) if self.method == "GET" else web.post(self.path, carried_out)

    async def _is_dry_run(self, request: web.Request, takes: type[msgspec.Struct] | None) -> bool:
        """Tell whether an act is asked to change nothing, which whoever may look may ask."""
        if takes is None or "dry_run" not in takes.__struct_fields__:
            return False
        try:
            return getattr(await self._read(request, takes), "dry_run", None) is True
        except QueryInvalid:
            return False

    async def _read(self, request: web.Request, takes: type[msgspec.Struct]) -> msgspec.Struct:
        if self.method == "GET":
            return read(request.query, takes)
        if self.form:
            return read(await fields_of(request), takes)
        try:
            return msgspec.json.decode(await request.read() or b"{}", type=takes)
        except msgspec.ValidationError as error:
            raise QueryInvalid(_told(error, takes)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise QueryInvalid("the body is no JSON") from None

    def _types(self, *, is_answer: bool) -> list[type]:
        hints = get_type_hints(self.handler)
        kinds = [kind for name, kind in hints.items() if (name == "return") is is_answer]
        return [kind for kind in kinds if isinstance(kind, type)]


def read(given: Mapping[str, str], kind: type[Taken]) -> Taken:
    """Read a query or a form; what is empty counts as not given. Raises `QueryInvalid`."""
    try:
        return msgspec.convert({name: text for name, text in given.items() if text}, kind, strict=False)
    except msgspec.ValidationError as error:
        raise QueryInvalid(_told(error, kind)) from None


async def fields_of(request: web.Request) -> Mapping[str, str]:
    """Return the posted form's texts; files are left out."""
    posted = await request.post()
    return {name: value for name, value in posted.items() if isinstance(value, str)}


def sequence_of(request: web.Request) -> int:
    """Read the sequence in a path; raises `QueryInvalid`."""
    text = request.match_info["sequence"]
    # Digits only, and few: int() of a long text is slow by design.
    if not text.isascii() or not text.isdigit() or len(text) > _SEQUENCE_DIGITS_MAX:
        raise QueryInvalid("the sequence is no whole number")
    return int(text)


def _told(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> str:
    """Say what is wrong, where, and what to write instead."""
    told = str(error)
    if unknown := _UNKNOWN.match(told):
        names = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        return f"unknown field {unknown['name'][:_ECHO_MAX]!r}: use {names}"
    place = _PLACE.fullmatch(told)
    if place is None or not place["where"]:
        return told
    name = place["where"].partition("[")[0].partition(".")[0]
    choices = _choices(kind, name)
    return f"{place['where']}: {place['what'][:1].lower()}{place['what'][1:]}" + (
        f"; use one of {', '.join(choices)}" if choices else ""
    )


def _choices(kind: type[msgspec.Struct], name: str) -> list[str]:
    hints: dict[str, Any] = get_type_hints(kind)
    field = next((one.name for one in msgspec.structs.fields(kind) if one.encode_name == name), "")
    parts = get_args(hints.get(field)) or (hints.get(field),)
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    return [str(member.value) for enum in enums for member in enum]
