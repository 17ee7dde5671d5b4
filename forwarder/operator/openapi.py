"""The operations described for machines, in OpenAPI 3.1, from their types."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from forwarder.model import RouteName
from forwarder.operator.operation import Operation

Json = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{name}"
_IN_PATH: Final[Json] = {
    "sequence": {"type": "integer", "minimum": 0},
    "route": {"type": "string", "enum": [route.value for route in RouteName]},
}


class Error(msgspec.Struct, frozen=True):
    """What is wrong, and what to do."""

    error: str


def document(version: str, operations: Sequence[Operation]) -> Json:
    """Return the whole document; pages for people are not in it, what they change is."""
    named = [one for one in operations if one.is_described]
    types = {kind for one in named for kind in (one.takes, one.answers) if kind is not None} | {Error}
    _, schemas = msgspec.json.schema_components(sorted(types, key=lambda kind: kind.__name__), ref_template=_REFERENCE)
    paths: Json = {}
    for one in named:
        paths.setdefault(one.path, {})[one.method.lower()] = _described(one, schemas)
    error = {"description": "What is wrong, and what to do.", "content": _content("application/json", "Error")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "forwarder, operator API",
            "version": version,
            "description": "Loopback by default. With a token set every request needs one; one of the role view "
            "changes nothing (403).",
        },
        "security": [{}, {"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
            "responses": {"Error": error},
        },
        "paths": paths,
    }


def _described(one: Operation, schemas: Json) -> Json:
    is_change = one.method == "POST"
    origin = "Answers 403 when the request comes from another origin." if is_change else ""
    role = "Needs the role operate." if one.needs_operate else ""
    described: Json = {
        "summary": one.summary,
        "description": " ".join(filter(None, (one.description, role, origin))),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _IN_PATH[name]}
            for name in re.findall(r"\{(\w+)\}", one.path)
        ],
        "responses": _answers(one) | {"default": {"$ref": "#/components/responses/Error"}},
    }
    if one.takes is None:
        return described
    if is_change:
        content = _content(one.form or "application/json", one.takes.__name__)
        return described | {"requestBody": {"required": True, "content": content}}
    properties = schemas[one.takes.__name__]["properties"]
    described["parameters"] += [{"name": name, "in": "query", "schema": shape} for name, shape in properties.items()]
    return described


def _answers(one: Operation) -> Json:
    if one.answers is not None:
        return {"200": {"description": one.summary, "content": _content("application/json", one.answers.__name__)}}
    if one.form:
        return {
            "200": {"description": "A page: what was asked, or a question to be confirmed."},
            "303": {"description": "Done; Location is the page that shows it."},
        }
    return {"200": {"description": one.summary}}


def _content(kind: str, schema: str) -> Json:
    return {kind: {"schema": {"$ref": _REFERENCE.format(name=schema)}}}
