"""List subscriptions that follow Segment Engage, as Segment's own "Sync Audience" action keeps them.

An audience, a journey's step or a computed trait arrives as an identify or track call with a flag. Where
it is configured, by the switch for all or by a list link under the computation's name, the list
`{computation_key}-{computation_id}` or the linked one is subscribed to or left.
"""

from dataclasses import dataclass

from forwarder.mapping.links import Links, LinkSource
from forwarder.mapping.stored_call import Call, dig

AUDIENCE = "audience"
_SYNCED_CLASSES = frozenset({AUDIENCE, "journey_step"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """What Engage computed; "" for what the event does not say."""

    of_class: str
    key: str
    id: str

    @property
    def is_audience(self) -> bool:
        """Tell whether it is an audience, which Segment's "Forward to Courier" refuses to forward."""
        return self.of_class == AUDIENCE


def computation_of(call: Call) -> Computation:
    """Return what `context.personas` says."""
    personas = dig(call.context, "personas")
    values = [dig(personas, f"computation_{field}") for field in ("class", "key", "id")]
    of_class, key, id_ = (value if isinstance(value, str) else "" for value in values)
    return Computation(of_class=of_class, key=key, id=id_)


def list_changes(call: Call, links: Links, source: LinkSource, *, sync_all: bool) -> dict[str, bool]:
    """Return the lists that the call's user joins (True) or leaves (False).

    `sync_all` is the switch for every audience and journey step of Engage. As in Segment's action an
    absent flag of an audience unsubscribes.
    """
    changes: dict[str, bool] = {}
    computation = computation_of(call)
    flags = call.properties or call.traits
    is_synced = computation.of_class in _SYNCED_CLASSES and bool(computation.key)
    if sync_all and is_synced and computation.id:
        changes[f"{computation.key}-{computation.id}"] = _is_truthy(flags.get(computation.key))
    for trait, linked in links.lists_by_trait(source).items():
        if is_synced and trait == computation.key:
            flag: object = _is_truthy(flags.get(trait))
        else:
            flag = call.traits.get(trait) if call.type == "identify" else None
        if isinstance(flag, bool):
            changes.update((link.target, flag) for link in linked)
    return changes


def _is_truthy(value: object) -> bool:
    """Judge as JavaScript does, in which Segment's action is written: [] and {} are true."""
    return isinstance(value, dict | list) or bool(value)
