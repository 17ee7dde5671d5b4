"""Where events are safe between the endpoint and the destination."""
