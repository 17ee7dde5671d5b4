"""The write key as the data plane wants to see it. Knows no HTTP library."""

from base64 import b64encode


class WriteKey:
    """A source's write key. It shows itself to nobody but the request's header."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def replace(self, key: str) -> None:
        """Take another key; requests from now on carry it."""
        self._key = key

    def __repr__(self) -> str:
        """Hide the key."""
        return "WriteKey(***)"

    def authorization(self) -> str:
        """Return the header's value: Basic with the key as user and an empty password (RudderStack, HTTP API)."""
        return "Basic " + b64encode(f"{self._key}:".encode()).decode("ascii")
