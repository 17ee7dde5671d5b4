"""What the doors say: how a receipt and a refusal read in each door's own words.

Courier and its senders are answered in JSON, SDKs as RudderStack's gateway does: plain text, `ok` without a newline,
errors with one. Deliberately absent: which status belongs to which mishap; see `doors` and `receive`.
"""

from collections.abc import Sequence

import msgspec

from forwarder.model import Receipt
from forwarder.web.doors import Door, Reply, Words

PLAIN = "text/plain; charset=utf-8"
OK = Reply(200, b"ok", PLAIN)
_ONE_ACCEPTED = Reply(200, b'{"accepted":1,"duplicates":0}')

_encode = msgspec.json.Encoder().encode


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

    def reply(self, words: Words) -> Reply:
        """Return the answer in a door's words."""
        headers = self.headers
        if self.retry_after_s is not None:
            headers = (*headers, ("Retry-After", str(self.retry_after_s)))
        if words is Words.GATEWAY:
            return Reply(self.status, f"{self.gateway}\n".encode(), PLAIN, headers)
        return Reply(self.status, _encode({"error": self.message}), headers=headers)


def accepted(
    door: Door, receipt: Receipt, *, refused: Sequence[int], message_ids: Sequence[str], is_one: bool
) -> Reply:
    """Return the answer for what is on disk now.

    `refused` holds the indexes of the elements that are no objects. `is_one`: the request was a lone event, which
    Courier's own inbound endpoints answer with its id and nothing else.
    """
    if door.words is Words.GATEWAY:
        return OK
    if door.words is Words.JSON and not refused and receipt.accepted == 1 and not receipt.duplicates:
        return _ONE_ACCEPTED
    answer: dict[str, object] = {}
    if door.words is Words.MESSAGE and message_ids:
        answer["messageId"] = message_ids[0]
    if not (door.words is Words.MESSAGE and is_one):
        answer |= {"accepted": receipt.accepted, "duplicates": receipt.duplicates}
    if refused:
        answer["refused"] = refused
    return Reply(202 if door.words is Words.MESSAGE else 200, _encode(answer))
