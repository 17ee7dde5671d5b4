"""From the CDP's traits to the keys of a Courier profile.

Courier delivers to its own keys only (OpenID Connect's names): a `phone` is no number to it until it is
called `phone_number`. Everything else keeps its name, its nesting and its nulls: whether Courier merges
nested objects deeply is not documented, so they are sent whole.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Dotted names reach into objects. RudderStack's and Segment's reserved traits → Courier's profile keys.
PROFILE_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "phone": "phone_number",
        "firstName": "given_name",
        "lastName": "family_name",
        "avatar": "picture",
        "birthday": "birthdate",
        "address.street": "address.street_address",
        "address.city": "address.locality",
        "address.state": "address.region",
        "address.postalCode": "address.postal_code",
    },
)


def profile_from(traits: Mapping[str, Any], names: Mapping[str, str] = PROFILE_KEYS) -> dict[str, Any]:
    """Return the profile: the named traits under Courier's keys, the rest under their own.

    A trait that already has Courier's name wins over the one that would take it; then both stay. The
    given traits are not changed.
    """
    return _renamed(traits, names, prefix="")


def _renamed(traits: Mapping[str, Any], names: Mapping[str, str], *, prefix: str) -> dict[str, Any]:
    profile: dict[str, Any] = {}
    for key, value in traits.items():
        path = f"{prefix}{key}"
        wanted = names.get(path, path)
        # A name leads to another key of the same object; one that leads elsewhere is no rename.
        name = wanted.removeprefix(prefix) if wanted.startswith(prefix) else key
        if name != key and (name in traits or name in profile):
            name = key
        profile[name] = _renamed(value, names, prefix=f"{path}.") if isinstance(value, dict) else value
    return profile
