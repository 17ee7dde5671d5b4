"""From one vendor's event to the other's calls: pure, and the one place that knows both vendors."""
