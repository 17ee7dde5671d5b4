"""The automation that a track call carries itself, in `properties.courier.automation`.

Courier documents `data` (RudderStack page), `template` and `steps` (webhook trigger page); recipient,
profile, brand and `cancelation_token` (one l) are the invoke call's own fields. Whatever is empty or
wrongly typed counts as absent.
"""

from dataclasses import dataclass
from typing import Any

from forwarder.mapping.stored_call import dig, id_text


@dataclass(frozen=True, slots=True, kw_only=True)
class InlineAutomation:
    """What the event asks for. Empty parts are not asked for."""

    steps: tuple[Any, ...] = ()
    template: str = ""
    cancelation_token: str = ""
    data: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    brand: str = ""
    recipient: str = ""
    is_recipient_null: bool = False  # present and null: Courier's invoke call allows it


def read_inline_automation(properties: dict[str, Any]) -> InlineAutomation:
    """Return what the properties ask for; nothing at all when they hold no automation."""
    asked = dig(properties, "courier", "automation")
    if not isinstance(asked, dict):
        return InlineAutomation()
    steps = asked.get("steps")
    has_steps = isinstance(steps, list) and bool(steps) and all(isinstance(step, dict) for step in steps)
    return InlineAutomation(
        steps=tuple(steps) if isinstance(steps, list) and has_steps else (),
        template=_segment(asked.get("template")),
        cancelation_token=_name(asked.get("cancelation_token")),
        data=_object(asked.get("data")),
        profile=_object(asked.get("profile")),
        brand=_name(asked.get("brand")),
        recipient=_recipient(asked.get("recipient")),
        is_recipient_null="recipient" in asked and asked["recipient"] is None,
    )


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _name(value: object) -> str:
    return value if isinstance(value, str) and value.strip() else ""


def _segment(value: object) -> str:
    """Return a name that becomes part of a path; dots alone would mean another path."""
    name = _name(value)
    return "" if name in {".", ".."} else name


def _recipient(value: object) -> str:
    return "" if isinstance(value, bool) else id_text(value) or ""
