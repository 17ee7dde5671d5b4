"""What becomes of a tenant when a group event reaches it. Pure: Courier's PUT replaces, so we merge.

The newest event that was applied to a tenant wins. One that comes later but is older (it waited for its
retry) adds only what is missing.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

# What a PUT may carry and would wipe if it did not (Courier's OpenAPI description, PUT /tenants).
_KEPT_FIELDS = ("brand_id", "default_preferences", "parent_tenant_id", "properties", "user_profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantChange:
    """What an event brings: name "" when it has none."""

    name: str
    properties: dict[str, Any]


def read_change(body: bytes) -> TenantChange:
    """Return the change that `CallMaker.write_tenant` encoded."""
    change = msgspec.json.decode(body)
    return TenantChange(name=change.get("name", ""), properties=change.get("properties", {}))


def merged(tenant_id: str, existing: dict[str, Any] | None, change: TenantChange, *, is_newest: bool) -> dict[str, Any]:
    """Return the body to PUT: everything that the tenant has, and what the change adds or changes.

    `existing` is Courier's answer to GET, None when the tenant is absent. Name: the change's, else the one
    it has, else the id. Properties are replaced one by one, nested ones whole.
    """
    had = existing or {}
    properties = had.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    kept = {field: had[field] for field in _KEPT_FIELDS if had.get(field) is not None}
    name = _name(tenant_id, had.get("name"), change.name, is_newest=is_newest)
    joined = properties | change.properties if is_newest else change.properties | properties
    return {"name": name, **kept, **({"properties": joined} if joined else {})}


def changes_nothing(existing: dict[str, Any] | None, body: dict[str, Any]) -> bool:
    """Tell whether the tenant already is what the body would make of it."""
    return existing is not None and all(existing.get(field) == value for field, value in body.items())


def _name(tenant_id: str, has: object, wanted: str, *, is_newest: bool) -> str:
    has_name = has if isinstance(has, str) and has else ""
    # The id stands in for a name that nobody gave: to an older event, too, it counts as missing.
    is_missing = has_name in {"", tenant_id}
    if wanted and (is_newest or is_missing):
        return wanted
    return has_name or tenant_id
