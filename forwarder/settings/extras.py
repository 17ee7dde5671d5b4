"""Packages that only some settings need: imported when these ask for them, and named with what installs them."""

from collections.abc import Collection
from importlib import import_module
from types import ModuleType

from forwarder.errors import SettingsInvalid


def module_of(name: str, *, extra: str, packages: Collection[str], variable: str) -> ModuleType:
    """Import a module of ours that needs packages of an extra, which a setting asks for.

    Raises `SettingsInvalid`, naming the command that installs them, when they are missing.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise SettingsInvalid(
            f"{variable}: what it needs is not installed. Run: pip install 'courier-rudderstack-forwarder[{extra}]'"
        ) from None
