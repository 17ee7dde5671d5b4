"""May this request come in? Judged by method, path and headers before its body is read, then by the body's signature.

The order of the questions is part of the contract: what heals by itself (draining, a route that is off) is asked before
credentials, because a 401 is final; credentials before anything about the body, because a stranger must not make us
unpack. Deliberately absent: what is in the body.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from forwarder.courier import signature as courier_signature
from forwarder.courier.signature import Proof, Signature
from forwarder.model import RouteName
from forwarder.ports import Clock
from forwarder.web.answers import Rejected
from forwarder.web.doors import DOORS, REFUSED, UNAVAILABLE, Door, Guard, Shape
from forwarder.web.keys import Credential, KeyRing, is_segment_signature
from forwarder.web.unpack import CorruptGzip, TooLarge, gunzip

CREDENTIAL_RETRY_S = 60
DRAIN_RETRY_S = 5
OFF_RETRY_S = 300

_LINES_TYPES = ("ndjson", "jsonl", "json-lines", "jsonlines")
_CHALLENGE = (("WWW-Authenticate", 'Basic realm="forwarder", Bearer realm="forwarder"'),)

Header = Callable[[str], str | None]  # a look-up by lower-case name; None when the header is absent


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DoorSettings:
    """What the doors are set to. A list of secrets that is empty shuts its doors."""

    routes: frozenset[RouteName]  # those that run
    webhook_secrets: Sequence[str]
    events_keys: Sequence[str]
    inbound_keys: Sequence[str]
    body_bytes_max: int  # packed and unpacked
    signature_age_max_s: float


class Admission(NamedTuple):
    """A request whose headers were good enough to read its body."""

    door: Door
    is_packed: bool
    has_lines: bool  # the sender says that it is one event a line
    signature: Signature | None = None  # Courier's, still to be compared with the body
    segment_signature: str = ""  # Segment's, still to be compared with the body


class Porter:
    """Judge who may come in. Every refusal is raised as `Rejected`."""

    def __init__(self, settings: DoorSettings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._webhook_secrets = tuple(secret.encode() for secret in settings.webhook_secrets if secret)
        self._events_keys = KeyRing(settings.events_keys)
        self._inbound_keys = KeyRing(settings.inbound_keys)
        self._open = frozenset(id(door) for door in DOORS.values() if self._is_on(door))
        self._limit_digits = len(str(settings.body_bytes_max))
        self.is_draining = False

    def admit(self, door: Door, header: Header) -> Admission:
        """Judge the headers of a POST to a door."""
        if self.is_draining:
            raise draining()
        if id(door) not in self._open:
            raise _off(door)
        signature, segment_signature = None, ""
        if door.guard is Guard.COURIER_SIGNATURE:
            signature = _courier_signature(header)
        else:
            segment_signature = self._judge_key(door, header)
        is_packed = _is_packed(header)
        self._judge_length(header)
        has_lines = door.shape is Shape.EVENTS and _has_lines(header)
        return Admission(door, is_packed, has_lines, signature, segment_signature)

    def open(self, admission: Admission, body: bytes) -> bytes:
        """Compare the body with its signature, if that is what proves it, and return it unpacked."""
        if len(body) > self._settings.body_bytes_max:
            raise too_large(self._settings.body_bytes_max)
        if admission.signature is not None:
            return self._open_signed(admission, admission.signature, body)
        if admission.segment_signature and not self._inbound_keys.proves(admission.segment_signature, body):
            raise _mismatch(admission.door, "signature_mismatch", "x-signature matches none of the configured keys")
        return self._unpack(body) if admission.is_packed else body

    def _is_on(self, door: Door) -> bool:
        if door.route not in self._settings.routes:
            return False
        if door.guard is Guard.COURIER_SIGNATURE:
            return bool(self._webhook_secrets)
        return bool(self._keys_of(door))

    def _keys_of(self, door: Door) -> KeyRing:
        return self._events_keys if door.route is RouteName.COURIER_TO_RUDDERSTACK else self._inbound_keys

    def _judge_key(self, door: Door, header: Header) -> str:
        """Return Segment's signature when only the body can tell whether the sender is known, else ""."""
        credential = self._keys_of(door).judge(header("authorization"))
        if credential is Credential.PROVED:
            return ""
        if door.guard is Guard.KEY_OR_SEGMENT_SIGNATURE and (text := header("x-signature")):
            if is_segment_signature(text):
                return text
            credential = Credential.MALFORMED if credential is Credential.MISSING else credential
        if credential is Credential.UNKNOWN:
            raise _mismatch(door, "key_unknown", "the key is none of those configured", gateway="invalid write key")
        missing = credential is Credential.MISSING
        raise Rejected(
            REFUSED,
            "key_missing" if missing else "key_malformed",
            "a key is needed: Authorization: Bearer <key>, or Basic with the key as user",
            gateway="failed to read writekey from header",
            headers=_CHALLENGE,
        )

    def _judge_length(self, header: Header) -> None:
        declared = header("content-length")
        if declared is None or len(declared) < self._limit_digits:
            return
        if declared.isascii() and declared.isdigit() and int(declared) > self._settings.body_bytes_max:
            raise too_large(self._settings.body_bytes_max)

    def _open_signed(self, admission: Admission, signature: Signature, body: bytes) -> bytes:
        payload = body
        if signature.matches(body, self._webhook_secrets):
            payload = self._unpack_proved(body) if admission.is_packed else body
        elif not (
            admission.is_packed and signature.matches(payload := self._unpack_unproved(body), self._webhook_secrets)
        ):
            raise _mismatch(
                admission.door, "signature_mismatch", "courier-signature matches none of the configured secrets"
            )
        if not signature.is_within(now_ms=self._clock.wall_ms(), age_max_s=self._settings.signature_age_max_s):
            raise _mismatch(
                admission.door, "signature_outside_age", "signed too long ago or in the future: is a clock wrong?"
            )
        return payload

    def _unpack_proved(self, body: bytes) -> bytes:
        # Courier would give up for good on a 400; what it signed is kept, for people to look at.
        try:
            return self._unpack(body)
        except Rejected as rejected:
            if rejected.reason == "gzip_corrupt":
                return body
            raise

    def _unpack_unproved(self, body: bytes) -> bytes:
        try:
            return gunzip(body, bytes_max=self._settings.body_bytes_max)
        except (CorruptGzip, TooLarge):
            return b""  # it was not signed packed, and there is nothing else that it could be signed as

    def _unpack(self, body: bytes) -> bytes:
        try:
            return gunzip(body, bytes_max=self._settings.body_bytes_max)
        except CorruptGzip as error:
            raise Rejected(400, "gzip_corrupt", str(error), gateway="failed to read body from request") from None
        except TooLarge:
            raise too_large(self._settings.body_bytes_max) from None


def draining() -> Rejected:
    """Say that the daemon is stopping, or its spool is shut: the sender must come back."""
    return Rejected(
        UNAVAILABLE, "draining", "the daemon is stopping", gateway="Service Unavailable", retry_after_s=DRAIN_RETRY_S
    )


def too_large(bytes_max: int) -> Rejected:
    """Say that the body is above the limit."""
    return Rejected(
        413,
        "body_too_large",
        f"the body is larger than {bytes_max} bytes, or unpacks to more than that or a hundred times its size",
        gateway="request size exceeds max limit",
    )


def _courier_signature(header: Header) -> Signature:
    parsed = courier_signature.parse(header("courier-signature"))
    if isinstance(parsed, Signature):
        return parsed
    if parsed is Proof.MISSING:
        raise Rejected(
            REFUSED, "signature_missing", "courier-signature is missing: set a secret on the webhook in Courier"
        )
    raise Rejected(REFUSED, "signature_malformed", "courier-signature is not of the form t=…,signature=…")


def _off(door: Door) -> Rejected:
    return Rejected(
        door.off_status,
        "route_off",
        "this door is switched off here",
        gateway="source is disabled",
        retry_after_s=OFF_RETRY_S,
    )


def _mismatch(door: Door, reason: str, message: str, *, gateway: str = "") -> Rejected:
    if door.mismatch_status == REFUSED:
        return Rejected(REFUSED, reason, message, gateway=gateway, headers=_CHALLENGE)
    return Rejected(door.mismatch_status, reason, message, gateway=gateway, retry_after_s=CREDENTIAL_RETRY_S)


def _is_packed(header: Header) -> bool:
    encoding = header("content-encoding")
    if not encoding:
        return False
    match encoding.strip().lower():
        case "gzip":
            return True
        case "identity":
            return False
        case _:
            raise Rejected(
                415,
                "encoding_unsupported",
                "only Content-Encoding: gzip is taken, or none",
                headers=(("Accept-Encoding", "gzip"),),
            )


def _has_lines(header: Header) -> bool:
    content_type = header("content-type")
    return content_type is not None and any(name in content_type.lower() for name in _LINES_TYPES)
