"""Everything that is RudderStack's and Segment's: wire shapes, calls, the data plane."""
