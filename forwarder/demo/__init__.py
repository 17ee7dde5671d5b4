"""Stand-ins for both vendors, faithful enough for `forwarder demo` and for tests."""
