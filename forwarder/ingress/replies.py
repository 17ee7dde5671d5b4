"""What the endpoints say: how a receipt and a refusal read in each endpoint's reply format, and on the wire.

Courier and its senders are answered in JSON; SDKs as RudderStack's gateway does, in plain text with errors that end
in a newline; but Segment's SDKs parse the 200 as JSON and repeat what is none. RudderStack's read the status alone, so
`ok` is for those that are known to be RudderStack's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

import msgspec

from forwarder.ingress.endpoints import LATER, UNAVAILABLE, Endpoint, ReplyFormat
from forwarder.model import Receipt

PLAIN = "text/plain; charset=utf-8"
DRAIN_RETRY_S = 5

_JSON = "application/json"
_SERVER_NAME = "forwarder"
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# A transparent image of one by one pixel (GIF89a).
_PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()
    rejection: tuple[str, str] | None = None  # the endpoint that turned the request away, and the reason, to count


OK = Reply(200, b"ok", PLAIN)
SUCCESS = Reply(200, b'{"success":true}')
ONE_ACCEPTED = Reply(200, b'{"accepted":1,"duplicates":0}')


class Rejected(Exception):
    """A request is turned away. Raised by what judges it, answered by the receiver, seen by nobody else."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        gateway: str = "",
        retry_after_s: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Keep what to answer.

        `reason` is one of a closed set of words, for the metric; `message` says to people what is wrong, and
        `gateway` the same in the words that RudderStack's gateway has for it.
        """
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.message = message
        self.gateway = gateway or message
        self.retry_after_s = retry_after_s
        self.headers = headers

    def reply(self, reply_format: ReplyFormat, endpoint: str) -> Reply:
        """Return the answer in a reply format; `endpoint` is what metrics call the one that turns away."""
        headers, retry_after_s, rejection = self.headers, self.retry_after_s, (endpoint, self.reason)
        if retry_after_s is None and self.status in (LATER, UNAVAILABLE):
            retry_after_s = DRAIN_RETRY_S
        if retry_after_s is not None:
            headers = (*headers, ("Retry-After", str(retry_after_s)))
        if reply_format is ReplyFormat.PIXEL:
            return Reply(self.status, _PIXEL, "image/gif", headers, rejection)
        if reply_format is ReplyFormat.GATEWAY:
            return Reply(self.status, f"{self.gateway}\n".encode(), PLAIN, headers, rejection)
        return Reply(self.status, _encode({"error": self.message}), _JSON, headers, rejection)


def later(reason: str, message: str) -> Rejected:
    """Say that the sender must come back for no fault of its own."""
    return Rejected(UNAVAILABLE, reason, message, gateway="Service Unavailable")


def draining() -> Rejected:
    """Say that the daemon is stopping, or its spool is shut: the sender must come back."""
    return later("draining", "the daemon is stopping")


def not_http() -> Rejected:
    """Say that the request is not of good form; what it holds is not quoted."""
    return Rejected(400, "not_http", "this is not HTTP/1.1 as it should be")


def head_too_large() -> Rejected:
    """Say that the head is above its limits."""
    return Rejected(431, "head_too_large", "the request's head is larger than 64 KiB, or has more than 256 headers")


def too_large(bytes_max: int) -> Rejected:
    """Say that the body is above the limit."""
    return Rejected(
        413,
        "body_too_large",
        f"the body is larger than {bytes_max} bytes, or unpacks to more than that",
        gateway="request size exceeds max limit",
    )


def too_much() -> Rejected:
    """Say that all bodies together are above their limit."""
    return later("too_much_at_once", "too many large bodies at once")


def accepted(
    endpoint: Endpoint,
    receipt: Receipt,
    *,
    refused: Sequence[int] = (),
    message_id: str = "",
    is_one: bool = True,
    is_rudderstack: bool = False,
) -> Reply:
    """Return the answer for what is on disk now.

    `refused` holds the indexes of the elements that are no objects. `is_one`: the request was a lone event, which
    Courier's own inbound endpoints answer with its id and nothing else. `is_rudderstack`: an SDK of RudderStack's asks.
    """
    match endpoint.reply_format:
        case ReplyFormat.GATEWAY:
            return OK if is_rudderstack else SUCCESS
        case ReplyFormat.PIXEL:
            return Reply(200, _PIXEL, "image/gif")
        case ReplyFormat.JSON:
            if receipt.accepted == 1 and not receipt.duplicates and not refused:
                return ONE_ACCEPTED
            return Reply(200, _encode(_counts(receipt, refused)))
        case ReplyFormat.MESSAGE:
            named = {"messageId": message_id} if message_id else {}
            return Reply(202, _encode(named if is_one else named | _counts(receipt, refused)))


def _counts(receipt: Receipt, refused: Sequence[int]) -> dict[str, object]:
    counts: dict[str, object] = {"accepted": receipt.accepted, "duplicates": receipt.duplicates}
    return counts | {"refused": refused} if refused else counts


def wire(reply: Reply, *, date: bytes, connection: bytes = b"", has_body: bool = True) -> bytes:
    """Return the bytes of an answer. `date` is a whole header line; `connection` that header's value, if any."""
    status, body = reply.status, reply.body
    lines = [_STATUS_LINES[status]]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Type: {reply.content_type}\r\nContent-Length: {len(body)}\r\n".encode())
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers]
    if connection:
        lines.append(b"Connection: " + connection + b"\r\n")
    lines += [f"Server: {_SERVER_NAME}\r\n".encode(), date, b"\r\n"]
    if has_body:
        lines.append(body)
    return b"".join(lines)


def with_headers(reply: Reply, headers: tuple[tuple[str, str], ...]) -> Reply:
    """Return the answer with further headers; a challenge is left out, as a page's browser would ask its visitor."""
    kept = tuple((name, value) for name, value in reply.headers if name != "WWW-Authenticate")
    return replace(reply, headers=(*kept, *headers))
