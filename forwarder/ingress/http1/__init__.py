"""HTTP/1.1 under the endpoints: sockets, connections, the parser and its limits."""
