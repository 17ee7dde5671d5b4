"""What a request's body proves of its sender, and the body unpacked.

A signature is only ever compared with bytes that arrived. Keys were judged before (`admission`), so that a stranger
makes us unpack nothing but what a signature of good form may be over, and that within the body limit. The ratio has
none: real batches of like events pass 100:1. Other encodings than gzip are not taken.
"""

import zlib

from forwarder.courier.signature import Secret, Signature
from forwarder.errors import ForwarderError
from forwarder.ingress.admission import Admission, EndpointSettings, KeyRing, unknown
from forwarder.ingress.cutting import Steps, first_of
from forwarder.ingress.replies import Rejected, too_large

# gzip allows several members in a row. No sender makes many, and each one costs a copy of the rest.
MEMBERS_MAX = 64
_GZIP = 16 + zlib.MAX_WBITS
_FIRST = "; of a batch Segment signs the first element alone: use a Bearer or Basic key, or FORWARDER_SEGMENT_SIGNATURE"


class CorruptGzip(ForwarderError):
    """The body says that it is gzip and is not, is cut off, or is followed by something else."""


class TooLarge(ForwarderError):
    """The body unpacks to more than the limit."""


class Proofs:
    """Judge bodies. Every refusal is raised as `Rejected`."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._webhook_secrets = tuple(Secret(secret.encode()) for secret in settings.webhook_secrets if secret)
        self._inbound_keys = KeyRing(settings.inbound_keys)
        self._age_max_s = settings.signature_age_max_s
        self._segment_signs_first = settings.segment_signs_first
        self._body_bytes_max = settings.body_bytes_max

    def open_webhook(self, admission: Admission, body: bytes, *, now_ms: int) -> bytes:
        """Compare a webhook's body with its signature, and return it unpacked."""
        signature = admission.signature
        assert signature is not None  # noqa: S101  who has none was not admitted
        if len(body) > self._body_bytes_max:
            raise too_large(self._body_bytes_max)
        if not signature.matches(body, self._webhook_secrets):
            payload = self._signed_unpacked(admission, signature, body)
        else:
            payload = self._unpack_proved(admission, body) if admission.is_packed else body
        if not signature.is_within(now_ms=now_ms, age_max_s=self._age_max_s):
            message = "signed too long ago or in the future: is a clock wrong?"
            raise unknown(admission.endpoint, "signature_outside_age", message)
        return payload

    def open(self, admission: Admission, body: bytes) -> Steps[bytes]:
        """Compare any other body with its signature, if that is what proves it, and return it unpacked."""
        if len(body) > self._body_bytes_max:
            raise too_large(self._body_bytes_max)
        if admission.segment_signature and not (yield from self._is_signed_by_segment(admission, body)):
            raise unknown(
                admission.endpoint,
                "signature_mismatch",
                f"x-signature matches none of the configured keys{'' if self._segment_signs_first else _FIRST}",
            )
        return self._unpack(admission, body) if admission.is_packed else body

    def _is_signed_by_segment(self, admission: Admission, body: bytes) -> Steps[bool]:
        if self._inbound_keys.proves(admission.segment_signature, body):
            return True
        if not self._segment_signs_first:
            return False
        unpacked = self._unpack_unproved(body) if admission.is_packed else body
        first = (yield from first_of(unpacked)) if unpacked is not None else None
        return first is not None and self._inbound_keys.proves(admission.segment_signature, first)

    def _signed_unpacked(self, admission: Admission, signature: Signature, body: bytes) -> bytes:
        # Only bytes that arrived are compared: what does not unpack was not signed unpacked.
        unpacked = self._unpack_unproved(body) if admission.is_packed else None
        if unpacked is not None and signature.matches(unpacked, self._webhook_secrets):
            return unpacked
        message = "courier-signature matches none of the configured secrets"
        raise unknown(admission.endpoint, "signature_mismatch", message)

    def _unpack_proved(self, admission: Admission, body: bytes) -> bytes:
        # Courier would give up for good on a 4xx; what it signed is kept, for people to look at.
        try:
            return self._unpack(admission, body)
        except Rejected as rejected:
            if rejected.reason == "gzip_corrupt":
                return body
            raise

    def _unpack_unproved(self, body: bytes) -> bytes | None:
        try:
            return gunzip(body, bytes_max=self._body_bytes_max)
        except (CorruptGzip, TooLarge):
            return None

    def _unpack(self, admission: Admission, body: bytes) -> bytes:
        try:
            return gunzip(body, bytes_max=self._body_bytes_max)
        except CorruptGzip as error:
            raise Rejected(
                admission.endpoint.corrupt_status,
                "gzip_corrupt",
                str(error),
                gateway="failed to read body from request",
            ) from None
        except TooLarge:
            raise too_large(self._body_bytes_max) from None


def gunzip(packed: bytes, *, bytes_max: int) -> bytes:
    """Return the unpacked body; raises `CorruptGzip` or `TooLarge`.

    At most one byte more than the limit is ever unpacked. Members in a row count as one body, and
    zero bytes after the last one are padding.
    """
    parts: list[bytes] = []
    size, rest = 0, packed
    for _ in range(MEMBERS_MAX):
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            part = member.decompress(rest, bytes_max - size + 1)
        except zlib.error:
            raise CorruptGzip("the body is no gzip") from None
        size += len(part)
        if size > bytes_max:
            raise TooLarge("the body unpacks to more than the limit")
        if not member.eof:
            raise CorruptGzip("the gzip body is cut off")
        parts.append(part)
        rest = member.unused_data
        if not rest.strip(b"\0"):
            return b"".join(parts)
    raise CorruptGzip("the gzip body has too many members")
