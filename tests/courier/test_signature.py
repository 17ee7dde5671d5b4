"""The signature of Courier's webhooks: every documented case, and what no header may do."""

import hmac
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.courier.signature import CLOCK_SKEW_MAX_S, SIGNATURES_MAX, Proof, Signature, parse, verify

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "courier_signatures.json").read_text("utf-8"))
SECRET = b"test-secret"
NOW_MS = 1_700_000_000_000
DAY_S = 86_400


def signed(body: bytes, time: str, secret: bytes = SECRET) -> str:
    """Return the header that Courier would send."""
    return f"t={time},signature={hmac.digest(secret, time.encode() + b'.' + body, 'sha256').hex()}"


def proof_of(header: str | None, body: bytes = b"{}", *secrets: bytes, age_max_s: float = DAY_S) -> Proof:
    """Judge at `NOW_MS`."""
    return verify(header, body, secrets=secrets or (SECRET,), now_ms=NOW_MS, age_max_s=age_max_s)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_documented_case_is_judged_as_documented(case: dict[str, Any]) -> None:
    """A body is proved exactly when the case says that its signature is valid, whatever its age."""
    parsed = parse(case["header"])
    is_valid = isinstance(parsed, Signature) and parsed.matches(case["body"].encode(), (case["secret"].encode(),))
    assert is_valid is case["valid"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_failure_is_called_malformed_only_when_its_form_is_wrong(case: dict[str, Any]) -> None:
    """What is well-formed but does not match may heal by a rotation, so it is told apart from rubbish."""
    proof = verify(
        case["header"], case["body"].encode(), secrets=(case["secret"].encode(),), now_ms=NOW_MS, age_max_s=1e12
    )
    if case["valid"]:
        assert proof in (Proof.PROVED, Proof.OUTSIDE_AGE)
    elif not case["header"]:
        assert proof is Proof.MISSING
    else:
        parsed = parse(case["header"])
        assert proof is (Proof.MISMATCH if isinstance(parsed, Signature) else Proof.MALFORMED)


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
        ("header_absent", Proof.MISSING),
        ("header_empty", Proof.MISSING),
    ],
)
def test_named_failures(name: str, expected: Proof) -> None:
    """The three kinds of failure are what the doors answer differently."""
    case = next(case for case in CASES if case["name"] == name)
    secrets = (case["secret"].encode(),)
    assert verify(case["header"], case["body"].encode(), secrets=secrets, now_ms=NOW_MS, age_max_s=1e12) is expected


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
    """An empty list of secrets, or an empty secret in it, proves nothing."""
    assert verify(signed(b"{}", str(NOW_MS)), b"{}", secrets=(), now_ms=NOW_MS, age_max_s=DAY_S) is Proof.MISMATCH
    assert proof_of(signed(b"{}", str(NOW_MS), b""), b"{}", b"") is Proof.MISMATCH


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
@given(body=st.binary(max_size=64), secret=st.binary(min_size=1, max_size=80), other=st.binary(max_size=64))
def test_a_signature_proves_its_own_body_alone(body: bytes, secret: bytes, other: bytes) -> None:
    """What was signed with a secret is proved with it, and proves no other body."""
    header = signed(body, str(NOW_MS), secret)
    assert verify(header, body, secrets=(secret,), now_ms=NOW_MS, age_max_s=1) is Proof.PROVED
    expected = Proof.PROVED if other == body else Proof.MISMATCH
    assert verify(header, other, secrets=(secret,), now_ms=NOW_MS, age_max_s=1) is expected


@settings(max_examples=100, deadline=None)
@given(time=st.text(alphabet=string.printable + "٣", max_size=20))
def test_only_ascii_digits_are_a_time(time: str) -> None:
    """Whatever int() would take beyond 1 to 16 ASCII digits is no time."""
    is_time = time.isascii() and time.isdigit() and 1 <= len(time) <= 16
    parsed = parse(f"t={time},signature={'0' * 64}")
    if "," not in time and "=" not in time and time.strip(" \t") == time:
        assert isinstance(parsed, Signature) is is_time
