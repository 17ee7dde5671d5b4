"""One HTTP exchange with a vendor: time-outs, size caps, and foreign errors turned into ours.

What an answer means is decided by the sinks. Retries that outlast a connection blip are absent on
purpose: they belong to the spool, which survives a restart. Redirects are answers like any other.

Proxies are handed in (`settings.proxies` reads them) and not left to aiohttp's `trust_env`: that also reads
`~/.netrc`, which then collides with our Authorization header, and costs two thread hops per request.
Trusted certificates come from OpenSSL's defaults, and so from `SSL_CERT_FILE` and `SSL_CERT_DIR`.
"""

import io
import ssl
import zlib
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_random_exponential

from forwarder import __version__
from forwarder.errors import NoAnswer
from forwarder.model import HttpRequest, HttpResponse
from forwarder.ports import Clock
from forwarder.response_head import HEAD_BYTES_MAX, end_of, is_interim, may_be_http, mended

_BLIP_MAX_S: Final = 2.0
_CONNECT_MAX_S: Final = 10.0
_READ_BYTES: Final = 65_536
_CONNECTIONS_MAX: Final = 256
_WHOLE_BODY_BYTES_MAX: Final = 1_048_576  # aiohttp warns of larger bodies that are given as bytes
_LATER: Final = frozenset({408, 425, 429})
_CREDENTIALS: Final = 407
_SERVER_ERROR: Final = 500
_USER_AGENT: Final = f"forwarder/{__version__}"

CONNECTION_REFUSED: Final = "connection refused"
NO_CONNECTION: Final = "no connection"
UNREADABLE: Final = "the answer cannot be read as HTTP"

# The one mapping of foreign errors: (theirs, our reason, whether the request may have left).
# The first that fits counts, so the special stand before the general.
_REASONS: Final[tuple[tuple[type[BaseException], str, bool], ...]] = (
    (aiohttp.ClientConnectorDNSError, "no such host", False),
    (aiohttp.ClientConnectorCertificateError, "certificate not trusted", False),
    (aiohttp.ClientSSLError, "tls failure", False),
    (aiohttp.ServerFingerprintMismatch, "certificate not trusted", False),
    (aiohttp.ClientProxyConnectionError, "proxy unreachable", False),
    (aiohttp.ClientConnectorError, NO_CONNECTION, False),
    (aiohttp.ConnectionTimeoutError, "connect time-out", False),
    (TimeoutError, "time-out", True),
    (aiohttp.ClientPayloadError, "answer cut off", True),
    (aiohttp.ServerDisconnectedError, "connection lost", True),
    (aiohttp.ClientResponseError, UNREADABLE, True),
    (aiohttp.InvalidURL, "unusable address", False),
    (aiohttp.NonHttpUrlClientError, "unusable address", False),
    (aiohttp.ClientError, "connection lost", True),
    (OSError, "connection lost", True),
)


def _no_answer(error: BaseException) -> NoAnswer:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return NoAnswer(CONNECTION_REFUSED, request_left=False)
    if isinstance(error, aiohttp.ClientHttpProxyError):  # to CONNECT: what it says to a plain request is an answer
        is_lasting = error.status < _SERVER_ERROR and error.status not in _LATER
        reason = "the proxy wants credentials" if error.status == _CREDENTIALS else "proxy refused"
        return NoAnswer(reason, request_left=False, is_lasting=is_lasting)
    for theirs, reason, request_left in _REASONS:
        if isinstance(error, theirs):
            return NoAnswer(reason, request_left=request_left, is_lasting=reason == UNREADABLE)
    return NoAnswer("connection lost", request_left=True)


def _is_blip(error: BaseException) -> bool:
    return isinstance(error, NoAnswer) and not error.request_left and str(error) in {CONNECTION_REFUSED, NO_CONNECTION}


class _LenientHandler(ResponseHandler):
    """Reads an answer's head as a whole and mends it before aiohttp's parser sees it."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._head: bytearray | None = None

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the answer to one more request; see aiohttp."""
        self._head = bytearray()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Hand bytes on; those of a head only when it is complete."""
        while self._head is not None:
            self._head += data
            size = end_of(self._head)
            if not size and len(self._head) <= HEAD_BYTES_MAX and may_be_http(self._head):
                return
            head, data = bytes(self._head[:size]), bytes(self._head[size:])
            self._head = bytearray() if is_interim(head) else None
            super().data_received(mended(head) if size else data)
            if not size or not data:
                return
        super().data_received(data)


def _make_handler(loop: Any) -> ResponseHandler:
    return _LenientHandler(loop)


class _LenientConnector(aiohttp.TCPConnector):
    """A pool of connections that read answers leniently."""

    def __init__(self, *, limit: int, ssl_context: ssl.SSLContext) -> None:
        super().__init__(limit=limit, ssl=ssl_context)
        self._factory = partial(_make_handler, loop=self._loop)


class AiohttpTransport:
    """`ports.Transport` over one shared aiohttp session, with a bounded pool of kept connections.

    A connection that certainly was not made is tried again for at most two seconds, within the
    request's own time-out; nothing else is. (aiohttp itself resends GET, PUT and DELETE once
    when a kept connection turns out to be closed, as RFC 9112 allows.) Use as an async context
    manager, or call `close`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proxy_for: Callable[[str], str | None] = lambda _: None,
        blip_max_s: float = _BLIP_MAX_S,
    ) -> None:
        """Keep what tells the proxy of a URL (None: reached directly) and how long a blip may last."""
        self._clock = clock
        self._find_proxy = proxy_for
        self._blip_max_s = blip_max_s
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}  # bounded: one entry per vendor's address

    async def __aenter__(self) -> Self:
        """Open the session, so that a missing certificate file shows at the start."""
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        await self.close()

    async def close(self) -> None:
        """Close every kept connection. Idempotent; a later exchange opens a new session."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def exchange(self, request: HttpRequest) -> HttpResponse:
        """Send the request and return the whole answer; see `ports.Transport`.

        `duration_s` covers the last try alone. Raises `NoAnswer` with one of a fixed vocabulary of
        reasons: nothing of the foreign error's text, which may quote the address, gets through.
        """
        deadline_s = self._clock.monotonic_s() + request.timeout_s
        try:
            return await self._exchange_once(request, deadline_s)
        except NoAnswer as error:
            if not _is_blip(error):
                raise
        tries = AsyncRetrying(  # made for blips alone: what it costs is more than the rest of an exchange together
            retry=retry_if_exception(_is_blip),
            stop=stop_before_delay(min(self._blip_max_s, request.timeout_s)),
            wait=wait_random_exponential(multiplier=0.05, max=0.5),
            reraise=True,
        )
        return await tries(self._exchange_once, request, deadline_s)

    async def _exchange_once(self, request: HttpRequest, deadline_s: float) -> HttpResponse:
        started_s = self._clock.monotonic_s()
        left_s = max(deadline_s - started_s, 0.001)
        try:
            async with self._open().request(
                request.method,
                request.url,
                data=_payload(request.body),
                headers=request.headers,
                allow_redirects=False,
                proxy=self._proxy_for(request.url),
                timeout=aiohttp.ClientTimeout(total=left_s, sock_connect=min(_CONNECT_MAX_S, left_s)),
            ) as response:
                body = await _read_capped(response, request.answer_bytes_max)
                headers = {name.lower(): value for name, value in response.headers.items()}
                status = response.status
        except (aiohttp.ClientError, OSError) as error:  # time-outs are OSErrors
            raise _no_answer(error) from None
        body = _unpacked(body, headers.get("content-encoding", ""), request.answer_bytes_max)
        return HttpResponse(status=status, headers=headers, body=body, duration_s=self._clock.monotonic_s() - started_s)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_LenientConnector(limit=_CONNECTIONS_MAX, ssl_context=ssl.create_default_context()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                max_line_size=HEAD_BYTES_MAX,
                max_field_size=HEAD_BYTES_MAX,
            )
        return self._session

    def _proxy_for(self, url: str) -> str | None:
        origin = "/".join(url.split("/", 3)[:3])
        if origin not in self._proxies:  # bounded: one entry per vendor's address
            self._proxies[origin] = self._find_proxy(url)
        return self._proxies[origin]


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """Return the body as aiohttp wants it: a large one is read piece by piece, so that it does not hold up the loop."""
    if len(body) > _WHOLE_BODY_BYTES_MAX:
        return io.BytesIO(body)
    return body or None


async def _read_capped(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size >= bytes_max:
            break
    else:
        return b"".join(chunks)
    response.close()  # the rest is not read, so the connection cannot be kept
    return b"".join(chunks)[:bytes_max]


def _unpacked(body: bytes, coding: str, bytes_max: int) -> bytes:
    """Return what a body holds that was packed though we asked for none; what cannot be unpacked stays as it is."""
    if coding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        return body
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, bytes_max)
    except zlib.error:
        return body
