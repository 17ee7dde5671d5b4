"""One connection to NATS: who we are, TLS, and what goes wrong in words of our own.

The library's own reconnecting is off: a connection that is lost is closed, and whoever needs one opens another.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from nats import errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js import errors as js_errors

from forwarder.errors import SourceAway
from forwarder.sources.nats_login import CredentialsInvalid, Login, login_of

ANSWER_MAX_S: Final = 5.0
_CONNECT_MAX_S: Final = 5  # each of its steps
_CONNECT_ALL_MAX_S: Final = 15.0
_CLOSE_MAX_S: Final = 1.0
_PING_S: Final = 10  # a connection that is dead is noticed after three of them
_LOST: Final = "the connection to NATS was lost"
_LOGIN_REFUSED: Final = ("authorization", "authentication", "user jwt")
_FAILED: Final = (
    (errors.SecureConnWantedError, "TLS is asked for, and this NATS has none"),
    (js_errors.ServiceUnavailableError, "JetStream is not on there, or not for this account"),
    (TimeoutError, "NATS does not answer in time"),
    (errors.ConnectionClosedError, _LOST),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """Where to connect and what to take. No repr of the URLs: they may hold a password."""

    urls: Sequence[str] = field(repr=False)
    stream: str
    subjects: Sequence[str] = ()  # none: all of the stream's
    durable: str = "forwarder"
    credentials: Path | None = None  # read at every connection
    ca_file: Path | None = None
    cert_file: Path | None = None  # with `key_file`: what the server knows us by
    key_file: Path | None = None


class _Client(Client):
    """A client that says nothing of itself in the clear where TLS was asked for. The library would."""

    must_be_secure = False

    def _connect_command(self) -> bytes:
        if self.must_be_secure and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        command: bytes = super()._connect_command()
        return command


class Connection:
    """Open from `open` to `close`; never reconnects."""

    def __init__(self) -> None:
        self.client = _Client()
        self.forbidden = ""  # what the server said last that we may not do
        self.on_closed: Callable[[], object] = str  # called when it is lost

    @classmethod
    async def open(cls, settings: NatsSettings, url: str) -> "Connection":
        """Connect and log in. Raises `SourceAway`."""
        self, login, tls = cls(), _login(settings), _tls(settings, url)
        if login is not None and login.jwt is None:
            self.client._public_nkey = login.public_key()  # noqa: SLF001 - else the library wants the package nkeys
        self.client.must_be_secure = tls is not None
        parts = urlsplit(url)
        # The library takes them from the URL as they stand there, percent-encoded.
        user, password = (None if one is None else unquote(one) for one in (parts.username, parts.password))
        try:
            with self.ours():
                async with asyncio.timeout(_CONNECT_ALL_MAX_S):
                    await self.client.connect(
                        servers=[f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"],
                        user=user if password is not None else None,
                        password=password,
                        token=user if password is None else None,
                        name="forwarder",
                        allow_reconnect=False,
                        connect_timeout=_CONNECT_MAX_S,
                        max_reconnect_attempts=1,  # of the first connection, too: whoever asked tries again, elsewhere
                        reconnect_time_wait=0,
                        ping_interval=_PING_S,
                        error_cb=self._on_error,
                        closed_cb=self._on_closed,
                        tls=tls,
                        signature_cb=login.sign if login else None,
                        user_jwt_cb=login.jwt.encode if login and login.jwt else None,
                    )
        except (AttributeError, LookupError, TypeError, ValueError):  # the library trusts whatever answers there
            await self.close()
            raise SourceAway("what answers there does not speak as NATS does") from None
        except BaseException:
            await self.close()
            raise
        return self

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Turn what the library raises into `SourceAway`."""
        try:
            yield
        except (errors.Error, OSError, TimeoutError) as error:
            raise SourceAway(self._words(error)) from None

    def require(self) -> None:
        """Raise `SourceAway` when the connection was lost, or something is not allowed that we did over it."""
        if self.forbidden or self.client.is_closed:
            raise SourceAway(self.forbidden or _LOST)

    def jetstream(self) -> JetStreamContext:
        """Return JetStream over this connection."""
        return JetStreamContext(self.client, timeout=ANSWER_MAX_S)

    async def close(self) -> None:
        """Send what is on its way and close. Never raises."""
        with suppress(errors.Error, OSError, TimeoutError):
            if self.client.is_connected:
                await self.client.flush(1)
        with suppress(errors.Error, OSError, TimeoutError):
            # After TLS has failed asyncio never tells that the stream is closed, and the library waits for it.
            async with asyncio.timeout(_CLOSE_MAX_S):
                await self.client.close()

    async def _on_error(self, error: Exception) -> None:
        _, _, what = str(error).lower().partition("permissions violation for ")
        if what:
            self.forbidden = f"this user has no right for {what}"

    async def _on_closed(self) -> None:
        self.on_closed()

    def _words(self, error: Exception) -> str:
        """Say what is the matter in words of our own: the library's may quote the URL."""
        text = str(error).lower()
        if isinstance(error, ssl.SSLError):
            return f"TLS with NATS fails: {getattr(error, 'verify_message', '') or error.reason}"
        if isinstance(error, errors.AuthorizationError) or any(word in text for word in _LOGIN_REFUSED):
            return "NATS refuses the login"
        if self.forbidden:
            return self.forbidden
        known = next((words for kind, words in _FAILED if isinstance(error, kind)), None)
        if known is None and isinstance(error, js_errors.APIError):
            return f"JetStream says {error.code}: {error.description}"
        return known or "NATS cannot be reached"


def _login(settings: NatsSettings) -> Login | None:
    if settings.credentials is None:
        return None
    try:
        return login_of(settings.credentials)
    except CredentialsInvalid as error:
        raise SourceAway(f"the file of FORWARDER_NATS_CREDENTIALS: {error}") from None
    except OSError:
        raise SourceAway("the file of FORWARDER_NATS_CREDENTIALS cannot be read") from None


def _tls(settings: NatsSettings, url: str) -> ssl.SSLContext | None:
    """Return what TLS is made with; a server that wants it although none was asked for gets the machine's own."""
    if not (settings.ca_file or settings.cert_file or url.startswith("tls://")):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")  # else it asks a terminal
    except OSError:  # ssl.SSLError is one
        raise SourceAway("a file of FORWARDER_NATS_CA_FILE, _CERT_FILE or _KEY_FILE cannot be used") from None
    return context
