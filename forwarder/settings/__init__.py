"""One frozen `Settings`, read once at the edge; everything else is given what it needs from it."""

from forwarder.settings.load import load, read
from forwarder.settings.settings import Settings
from forwarder.settings.sources import Origin, Place
from forwarder.settings.values import Address

__all__ = ["Address", "Origin", "Place", "Settings", "load", "read"]
