"""Group deliveries into requests that the destination will accept.

Pure: no clock, no I/O, no task. The delivery loop owns time and passes it in, so every
boundary is tested without sleeping.
"""

from dataclasses import dataclass

from forwarder.errors import OversizeDelivery
from forwarder.model import Batch, Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The destination's ceilings, and how long we wait to fill them. All positive."""

    deliveries_max: int
    bytes_max: int  # of the bodies alone; the sink's framing is already subtracted
    wait_max_s: float


class Batcher:
    """Hold the open batch and say when it should go.

    Not safe for concurrent use: one delivery loop owns one batcher.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._open: list[Delivery] = []
        self._size_bytes = 0
        self._oldest_s = 0.0
        self.bytes_max = limits.bytes_max  # may be lowered for a while; what the batch holds already stays in it

    def __repr__(self) -> str:
        """Show how full the open batch is."""
        return f"Batcher({len(self._open)} deliveries, {self._size_bytes} bytes)"

    def __len__(self) -> int:
        """Return how many deliveries the open batch holds."""
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Tell whether nothing can be added: by count, or because not a byte is left."""
        return len(self._open) >= self._limits.deliveries_max or self._size_bytes >= self.bytes_max

    def fits(self, delivery: Delivery) -> bool:
        """Tell whether the open batch can take this delivery.

        Raises `OversizeDelivery` if even an empty batch could not. The caller sends it
        alone, or buries it if it is above what the destination takes at all.
        """
        size_bytes = len(delivery.body)
        if size_bytes > self.bytes_max:
            raise OversizeDelivery(f"{size_bytes} bytes, a batch takes {self.bytes_max}")
        return not self.is_full and self._size_bytes + size_bytes <= self.bytes_max

    def add(self, delivery: Delivery, *, now_s: float) -> None:
        """Put a delivery that `fits` into the open batch."""
        # Age counts from the oldest delivery. Restarting it on every add would let a
        # steady trickle postpone the batch forever.
        if not self._open:
            self._oldest_s = now_s
        self._open.append(delivery)
        self._size_bytes += len(delivery.body)

    def due_at_s(self) -> float | None:
        """Return when the open batch should go, on the clock given to `add`; None if empty."""
        if not self._open:
            return None
        return self._oldest_s if self.is_full else self._oldest_s + self._limits.wait_max_s

    def take(self) -> Batch | None:
        """Close and return the open batch, or None when there is nothing to send."""
        if not self._open:
            return None
        batch = Batch(deliveries=tuple(self._open), size_bytes=self._size_bytes)
        self._open = []
        self._size_bytes = 0
        return batch
