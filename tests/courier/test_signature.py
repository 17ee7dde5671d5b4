"""The signature of Courier's webhooks: every documented case, and what no header may do."""

import hmac
import json
import string
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.signature import CLOCK_SKEW_MAX_S, SIGNATURES_MAX, Secret, Signature, parse

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "courier_signatures.json").read_text("utf-8"))
SECRET = b"test-secret"
NOW_MS = 1_700_000_000_000
DAY_S = 86_400


def signed(body: bytes, time: str, secret: bytes = SECRET) -> str:
    """Return the header that Courier would send."""
    return f"t={time},signature={hmac.digest(secret, time.encode() + b'.' + body, 'sha256').hex()}"


class Proof(Enum):
    """What a header says of a body."""

    PROVED = 1
    MALFORMED = 2
    MISMATCH = 3
    OUTSIDE_AGE = 4


def proof_of(header: str, body: bytes = b"{}", *secrets: bytes, age_max_s: float = DAY_S) -> Proof:
    """Judge at `NOW_MS`."""
    signature = parse(header.encode("utf-8", "surrogatepass"))
    if signature is None:
        return Proof.MALFORMED
    if not signature.matches(body, [Secret(secret) for secret in secrets or (SECRET,) if secret]):
        return Proof.MISMATCH
    return Proof.PROVED if signature.is_within(now_ms=NOW_MS, age_max_s=age_max_s) else Proof.OUTSIDE_AGE


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_documented_case_is_judged_as_documented(case: dict[str, Any]) -> None:
    """A body is proved exactly when the case says so; what may heal by a rotation is told apart from rubbish."""
    proof = proof_of(case["header"] or "", case["body"].encode(), case["secret"].encode(), age_max_s=1e12)
    if case["valid"]:
        assert proof in (Proof.PROVED, Proof.OUTSIDE_AGE)
    else:
        assert proof in (Proof.MISMATCH, Proof.MALFORMED)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wrong_secret", Proof.MISMATCH),
        ("t_altered", Proof.MISMATCH),
        ("two_signatures_none_matches", Proof.MISMATCH),
        ("empty_secret_empty_key_signature", Proof.MISMATCH),
        ("truncated_signature", Proof.MALFORMED),
        ("t_twice", Proof.MALFORMED),
        ("signed_with_sha1", Proof.MALFORMED),
        ("header_garbage", Proof.MALFORMED),
        ("header_empty", Proof.MALFORMED),
    ],
)
def test_named_failures(name: str, expected: Proof) -> None:
    """A mismatch and a wrong form are what the endpoint answers differently."""
    case = next(case for case in CASES if case["name"] == name)
    assert proof_of(case["header"], case["body"].encode(), case["secret"].encode(), age_max_s=1e12) is expected


@pytest.mark.parametrize(
    ("age_ms", "expected"),
    [
        (0, Proof.PROVED),
        (DAY_S * 1000, Proof.PROVED),
        (DAY_S * 1000 + 1, Proof.OUTSIDE_AGE),
        (-CLOCK_SKEW_MAX_S * 1000, Proof.PROVED),
        (-CLOCK_SKEW_MAX_S * 1000 - 1, Proof.OUTSIDE_AGE),
        (NOW_MS - 1, Proof.OUTSIDE_AGE),
    ],
)
def test_age_limit_in_milliseconds(age_ms: int, expected: Proof) -> None:
    """A signature is good up to its age limit to the millisecond, and a little ahead of our clock."""
    assert proof_of(signed(b"{}", f"{NOW_MS - age_ms:013d}")) is expected


def test_ten_digits_are_seconds() -> None:
    """A time in seconds is judged as seconds, and signed as the text that it is."""
    assert proof_of(signed(b"{}", str(NOW_MS // 1000))) is Proof.PROVED
    assert proof_of(signed(b"{}", str(NOW_MS // 1000 - DAY_S - 1))) is Proof.OUTSIDE_AGE


def test_any_of_several_secrets_proves() -> None:
    """During a rotation the old and the new secret both count, in any order."""
    header = signed(b"{}", str(NOW_MS), b"new")
    assert proof_of(header, b"{}", b"old", b"new") is Proof.PROVED
    assert proof_of(header, b"{}", b"new", b"old") is Proof.PROVED
    assert proof_of(header, b"{}", b"old", b"older") is Proof.MISMATCH


def test_without_any_secret_nothing_is_proved() -> None:
    """No secret proves nothing, and an empty one cannot be made."""
    signature = parse(signed(b"{}", str(NOW_MS), b"").encode())
    assert signature is not None
    assert not signature.matches(b"{}", ())
    with pytest.raises(ValueError, match="empty"):
        Secret(b"")


def test_only_so_many_signatures_are_compared() -> None:
    """The right signature behind a wall of wrong ones is not looked for."""
    time, _, good = signed(b"{}", str(NOW_MS)).partition(",")
    wrong = "signature=" + "0" * 64
    assert proof_of(",".join([time, *[wrong] * (SIGNATURES_MAX - 1), good])) is Proof.PROVED
    assert proof_of(",".join([time, *[wrong] * SIGNATURES_MAX, good])) is Proof.MISMATCH


@settings(max_examples=200, deadline=None)
@given(
    header=st.text() | st.text(alphabet="t=,signature0123456789abcdef \t", max_size=200),
    body=st.binary(max_size=64),
)
def test_no_invented_header_ever_proves_or_raises(header: str, body: bytes) -> None:
    """Whatever stands in the header, nothing is raised and nothing is proved without the secret."""
    assert proof_of(header, body) is not Proof.PROVED


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=64), secret=st.binary(min_size=1, max_size=200), other=st.binary(max_size=64))
def test_a_signature_proves_its_own_body_alone(body: bytes, secret: bytes, other: bytes) -> None:
    """What was signed with a secret is proved with it, and proves no other body."""
    header = signed(body, str(NOW_MS), secret)
    assert proof_of(header, body, secret) is Proof.PROVED
    assert proof_of(header, other, secret) is (Proof.PROVED if other == body else Proof.MISMATCH)


@settings(max_examples=100, deadline=None)
@given(time=st.text(alphabet=string.printable + "٣", max_size=20))
def test_only_ascii_digits_are_a_time(time: str) -> None:
    """Whatever int() would take beyond 1 to 16 ASCII digits is no time."""
    is_time = time.isascii() and time.isdigit() and 1 <= len(time) <= 16
    parsed = parse(f"t={time},signature={'0' * 64}".encode())
    if "," not in time and "=" not in time and time.strip(" \t") == time:
        assert isinstance(parsed, Signature) is is_time
