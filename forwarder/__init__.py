"""A durable bridge between Courier and RudderStack / Segment, in both directions."""

__version__ = "0.2.0"
