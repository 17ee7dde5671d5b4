"""May this request come in? Judged by its head, before its body is read.

The order of the questions is part of the contract: what heals by itself (draining, a route that is off) is asked before
credentials, because a 401 is final; credentials before anything about the body, because a stranger must not make us
unpack. Only the SDKs of browsers and phones carry their key inside the body, and only theirs is unpacked for that.
Keys are compared as bytes and in constant time over all of them, so that neither the answer's time nor a character
outside ASCII gives anything away.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs

from forwarder.courier import signature as courier_signature
from forwarder.courier.signature import Signature
from forwarder.ingress.endpoints import DOCUMENTS, ENDPOINTS, UNAUTHORIZED, WEBHOOK, Authenticator, BodyFormat, Endpoint
from forwarder.ingress.replies import Rejected, draining, too_large
from forwarder.model import RouteName

CREDENTIAL_RETRY_S = 60
OFF_RETRY_S = 300

_LINES_TYPES = (b"ndjson", b"jsonl", b"json-lines", b"jsonlines")
_CHALLENGE = (("WWW-Authenticate", 'Basic realm="forwarder", Bearer realm="forwarder"'),)
_SHA1_HEX = re.compile(rb"[0-9a-f]{40}")

Headers = Mapping[bytes, bytes]  # by lower-case name


class Credential(Enum):
    """What the presented credential is."""

    PROVED = "proved"
    MISSING = "missing"
    MALFORMED = "malformed"  # not of the form that this header has
    UNKNOWN = "unknown"  # of its form, but none of ours


class KeyRing:
    """The keys that an endpoint takes; several during a rotation. An empty key opens nothing."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(key.encode() for key in keys if key)

    def __bool__(self) -> bool:
        """Tell whether there is any key at all."""
        return bool(self._keys)

    def __repr__(self) -> str:
        """Show how many, never which."""
        return f"KeyRing({len(self._keys)} keys)"

    def judge(self, authorization: bytes | None) -> Credential:
        """Judge an `Authorization` header: Bearer, or Basic with the key as user (the password is ignored)."""
        if not authorization:
            return Credential.MISSING
        presented = _presented(authorization)
        if not presented:
            return Credential.MALFORMED
        return Credential.PROVED if self.holds(presented) else Credential.UNKNOWN

    def holds(self, presented: bytes) -> bool:
        """Tell whether this is one of the keys."""
        is_held = False
        for key in self._keys:
            is_held |= hmac.compare_digest(key, presented)
        return is_held

    def proves(self, segment_signature: bytes, signed: bytes) -> bool:
        """Tell whether one of the keys made Segment's `x-signature` (hex HMAC-SHA1) of these bytes."""
        is_proved = False
        for key in self._keys:
            is_proved |= hmac.compare_digest(hmac.digest(key, signed, "sha1").hex().encode(), segment_signature)
        return is_proved


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EndpointSettings:
    """What the endpoints are set to. A list of secrets that is empty switches its endpoints off."""

    routes: frozenset[RouteName]  # those that run
    webhook_secrets: Sequence[str]
    events_keys: Sequence[str]
    inbound_keys: Sequence[str]
    body_bytes_max: int  # packed and unpacked
    signature_age_max_s: float
    segment_signs_first: bool = False  # a signature over a batch's first element admits the batch


class Admission:
    """A request whose head was good enough to read its body, and what is learnt from the body for the answer."""

    # What most requests leave as it is.
    is_packed = False
    has_lines = False  # the sender says that it is one event a line
    needs_key = False  # the key must be in the body
    is_rudderstack = False  # the sender is known to be an SDK of RudderStack's
    origin = ""  # the page that may read the answer
    query = b""
    signature: Signature | None = None  # Courier's, still to be compared with the body
    segment_signature = b""  # Segment's, still to be compared with the body
    message_id = ""  # of the first event
    is_one = True  # a lone event rather than a list
    refused: Sequence[int] = ()  # the elements that are no objects

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint


_NAMED_PATHS = frozenset(("/webhooks/courier", "/events", "/inbound/rudderstack", "/inbound/segment"))


class Admissions:
    """Judge who may come in. Every refusal is raised as `Rejected`."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._has_webhook_secret = any(settings.webhook_secrets)
        self._events_keys = KeyRing(settings.events_keys)
        self.inbound_keys = KeyRing(settings.inbound_keys)
        self._routes = settings.routes
        self._on = frozenset(id(endpoint) for endpoint in (*ENDPOINTS.values(), DOCUMENTS) if self._is_on(endpoint))
        self._body_bytes_max = settings.body_bytes_max
        self._limit_digits = len(str(settings.body_bytes_max))
        self.is_draining = False

    def admit(self, endpoint: Endpoint, headers: Headers, query: bytes) -> Admission:
        """Judge the head of a request that has the right method."""
        if self.is_draining:
            raise draining()
        if id(endpoint) not in self._on:
            raise _off(endpoint)
        admission = Admission(endpoint)
        if endpoint is WEBHOOK:
            admission.signature = courier_signature.parse(headers.get(b"courier-signature", b""))
            if admission.signature is None:
                raise _unsigned(headers)
        else:
            self._judge_key(admission, headers, query)
            admission.has_lines = endpoint.body_format is BodyFormat.EVENTS and _has_lines(headers)
        if b"content-encoding" in headers:
            admission.is_packed = _is_packed(headers[b"content-encoding"])
        declared = headers.get(b"content-length")
        if declared is not None and len(declared) >= self._limit_digits and int(declared) > self._body_bytes_max:
            raise too_large(self._body_bytes_max)
        return admission

    def open_paths(self) -> list[str]:
        """Return the paths that take events now; those of SDKs as one."""
        paths = [path for path, endpoint in ENDPOINTS.items() if id(endpoint) in self._on]
        return list(dict.fromkeys(path if path in _NAMED_PATHS else "/v1/*" for path in paths))

    def is_write_key(self, key: object) -> bool:
        """Tell whether what stands in a body is one of the inbound keys."""
        return isinstance(key, str) and self.inbound_keys.holds(key.encode("utf-8", "replace"))

    def judge_write_keys(self, admission: Admission, keys: Sequence[object]) -> None:
        """Judge the keys that stand in the body of a request without another credential."""
        if any(map(self.is_write_key, keys)):
            return
        raise _refused(admission.endpoint, Credential.UNKNOWN if any(keys) else Credential.MISSING)

    def _is_on(self, endpoint: Endpoint) -> bool:
        if endpoint.route not in self._routes:
            return False
        if endpoint.authenticator is Authenticator.COURIER_SIGNATURE:
            return self._has_webhook_secret
        return bool(self._keys_of(endpoint))

    def _keys_of(self, endpoint: Endpoint) -> KeyRing:
        return self._events_keys if endpoint.route is RouteName.COURIER_TO_RUDDERSTACK else self.inbound_keys

    def _judge_key(self, admission: Admission, headers: Headers, query: bytes) -> None:
        """Leave it to the body where only that can tell whether the sender is known."""
        endpoint = admission.endpoint
        credential = self._keys_of(endpoint).judge(headers.get(b"authorization"))
        match endpoint.authenticator:
            case Authenticator.WRITE_KEY:
                agent = headers.get(b"user-agent", b"").lower()
                admission.is_rudderstack = not endpoint.is_segment and (
                    b"rudder" in agent or b"anonymousid" in headers or endpoint.name != "/v1"
                )
                admission.query = query
                if credential is Credential.MISSING:
                    credential = self._judge_query(query)
                admission.needs_key = credential is Credential.MISSING and endpoint.body_format is not BodyFormat.QUERY
                if admission.needs_key:
                    return
            case Authenticator.KEY_OR_SEGMENT_SIGNATURE if credential is not Credential.PROVED:
                text = headers.get(b"x-signature", b"").strip()
                if is_segment_signature(text):
                    admission.segment_signature = text
                    return
                if text and credential is Credential.MISSING:
                    credential = Credential.MALFORMED
            case _:
                pass
        if credential is not Credential.PROVED:
            raise _refused(endpoint, credential)

    def _judge_query(self, query: bytes) -> Credential:
        presented = write_key_of(query)
        if not presented:
            return Credential.MISSING
        return Credential.PROVED if self.inbound_keys.holds(presented) else Credential.UNKNOWN


def write_key_of(query: bytes) -> bytes:
    """Return the `writeKey` of a query; b"" when it has none."""
    if b"writeKey" not in query:
        return b""
    return parse_qs(query).get(b"writeKey", [b""])[0]


def _unsigned(headers: Headers) -> Rejected:
    if headers.get(b"courier-signature"):
        return Rejected(UNAUTHORIZED, "signature_malformed", "courier-signature is not of the form t=…,signature=…")
    return Rejected(
        UNAUTHORIZED, "signature_missing", "courier-signature is missing: set a secret on the webhook in Courier"
    )


def _off(endpoint: Endpoint) -> Rejected:
    return Rejected(
        endpoint.off_status,
        "route_off",
        "this endpoint is switched off here",
        gateway="source is disabled",
        retry_after_s=OFF_RETRY_S,
    )


def _refused(endpoint: Endpoint, credential: Credential) -> Rejected:
    if credential is Credential.UNKNOWN:
        message = "the key is none of those configured"
        return unknown(endpoint, "key_unknown", message, gateway="invalid write key")
    return Rejected(
        UNAUTHORIZED,
        "key_missing" if credential is Credential.MISSING else "key_malformed",
        "a key is needed: Authorization: Bearer <key>, or Basic with the key as user",
        gateway="failed to read writekey from header",
        headers=_CHALLENGE,
    )


def unknown(endpoint: Endpoint, reason: str, message: str, *, gateway: str = "") -> Rejected:
    """Say that a credential of good form is none of ours, or that it is out of date."""
    if endpoint.unknown_status == UNAUTHORIZED:
        return Rejected(UNAUTHORIZED, reason, message, gateway=gateway, headers=_CHALLENGE)
    return Rejected(endpoint.unknown_status, reason, message, gateway=gateway, retry_after_s=CREDENTIAL_RETRY_S)


def _is_packed(encoding: bytes) -> bool:
    match encoding.strip().lower():
        case b"gzip":
            return True
        case b"" | b"identity":
            return False
        case _:
            raise Rejected(
                415,
                "encoding_unsupported",
                "only Content-Encoding: gzip is taken, or none",
                headers=(("Accept-Encoding", "gzip"),),
            )


def _has_lines(headers: Headers) -> bool:
    content_type = headers.get(b"content-type", b"").lower()
    return any(name in content_type for name in _LINES_TYPES)


def is_segment_signature(header: bytes) -> bool:
    """Tell whether the header has the form of Segment's `x-signature`: lower-case hex of a SHA-1."""
    return _SHA1_HEX.fullmatch(header) is not None


def _presented(authorization: bytes) -> bytes:
    scheme, _, value = authorization.strip().partition(b" ")
    value = value.strip()
    match scheme.lower():
        case b"bearer":
            return value
        case b"basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[0]
            except binascii.Error:
                return b""
        case _:
            return b""
