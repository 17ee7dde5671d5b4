"""All that decides what the outbound mapping makes of an event, as one value: kept, it makes the mapper again."""

from hashlib import blake2b

import msgspec

from forwarder.mapping.courier_to_rudderstack import CourierToRudderStack, Preset
from forwarder.mapping.rules import Rules
from forwarder.mapping.selection import EventSelection
from forwarder.rudderstack.calls import TrackCalls


class OutboundMapping(msgspec.Struct, frozen=True, kw_only=True):
    """Two that are equal make the same of every event, byte for byte."""

    version: str  # of the code
    event_names: Preset
    events: tuple[str, ...]
    rules: str = ""  # the text of the file

    @property
    def mark(self) -> str:
        """Name it."""
        return blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()

    def mapper(self, *, file: str = "rules") -> CourierToRudderStack:
        """Make the mapper; `file` names the rules in errors. Raises `RulesInvalid`."""
        return CourierToRudderStack(
            TrackCalls(version=self.version),
            preset=self.event_names,
            selection=EventSelection.of(self.events),
            rules=Rules.parse(self.rules, file=file) if self.rules else Rules(),
        )
