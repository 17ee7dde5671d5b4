"""Two stand-in vendors on loopback, a data plane and Courier: for `forwarder demo` and for tests."""
