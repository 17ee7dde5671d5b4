"""Where events are safe between the door and the destination."""
