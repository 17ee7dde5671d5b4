"""Keys: what is presented, and whether it is one of ours."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.ingress.admission import Credential, KeyRing, is_segment_signature

RING = KeyRing(("first", "", "zweiter-schlüssel", "with:colon"))


def basic(user: str, password: str = "") -> str:
    """Return a Basic header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, Credential.MISSING),
        ("", Credential.MISSING),
        ("Bearer first", Credential.PROVED),
        ("BEARER first", Credential.PROVED),
        ("Bearer zweiter-schlüssel", Credential.PROVED),
        ("Bearer with:colon", Credential.PROVED),
        (basic("first"), Credential.PROVED),
        (basic("zweiter-schlüssel", "password"), Credential.PROVED),
        (basic("with:colon"), Credential.UNKNOWN),
        ("Bearer First", Credential.UNKNOWN),
        ("Bearer firs", Credential.UNKNOWN),
        ("Bearer first x", Credential.UNKNOWN),
        ("Bearer \udc80", Credential.UNKNOWN),
        (basic("nobody"), Credential.UNKNOWN),
        ("Bearer", Credential.MALFORMED),
        ("Bearer  ", Credential.MALFORMED),
        ("first", Credential.MALFORMED),
        ("Basic first", Credential.MALFORMED),
        ("Basic é", Credential.MALFORMED),
        (basic(""), Credential.MALFORMED),
        ("Negotiate first", Credential.MALFORMED),
    ],
)
def test_a_header_is_judged_by_form_and_content(header: str | None, expected: Credential) -> None:
    """What has the form of a key is told apart from what has not, because they are answered differently."""
    assert RING.judge(None if header is None else header.encode("utf-8", "surrogateescape")) is expected


def test_an_empty_ring_opens_nothing() -> None:
    """Without keys nothing is proved, and an empty key is no key."""
    assert not KeyRing(("", ""))
    assert KeyRing(()).judge(b"Bearer x") is Credential.UNKNOWN
    assert not KeyRing(("",)).proves(hmac.new(b"", b"body", hashlib.sha1).hexdigest().encode(), b"body")


def test_a_ring_does_not_show_its_keys() -> None:
    """What is printed of a ring is how many keys it has."""
    assert repr(RING) == "KeyRing(3 keys)"


def test_any_key_of_the_ring_makes_segments_signature() -> None:
    """Segment's signature is proved by old and new key alike, for its own body alone."""
    for key in (b"first", "zweiter-schlüssel".encode()):
        signature = hmac.new(key, b"body", hashlib.sha1).hexdigest().encode()
        assert RING.proves(signature, b"body")
        assert not RING.proves(signature, b"Body")
    assert not RING.proves("é".encode() * 40, b"body")


@settings(max_examples=150, deadline=None)
@given(header=st.binary(max_size=60))
def test_no_invented_header_is_a_key(header: bytes) -> None:
    """Whatever stands in the header, nothing is raised and nothing is proved without a key."""
    assert KeyRing(("a-key-that-nobody-guesses",)).judge(header) is not Credential.PROVED
    assert is_segment_signature(header) is (len(header) == 40 and all(c in b"0123456789abcdef" for c in header))
