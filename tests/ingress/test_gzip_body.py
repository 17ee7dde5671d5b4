"""Unpacking: what went in comes out, and a small body never becomes a large one."""

import gzip
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.ingress.proof import MEMBERS_MAX, CorruptGzip, TooLarge, gunzip


@settings(max_examples=100, deadline=None)
@given(members=st.lists(st.binary(max_size=200), min_size=1, max_size=4), padding=st.integers(0, 20))
def test_what_was_packed_comes_out(members: list[bytes], padding: int) -> None:
    """Members in a row are one body, and zero bytes behind them do not count."""
    packed = b"".join(gzip.compress(member) for member in members) + bytes(padding)
    assert gunzip(packed, bytes_max=1_000) == b"".join(members)


@settings(max_examples=100, deadline=None)
@given(packed=st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + tail))
def test_rubbish_is_corrupt(packed: bytes) -> None:
    """Whatever the bytes, the outcome is a body, or one of two errors."""
    with suppress(CorruptGzip, TooLarge):
        assert len(gunzip(packed, bytes_max=1_000)) <= 1_000


def test_the_limits_hold_to_the_byte() -> None:
    """A body of just the limit is unpacked, one byte more is not."""
    body = bytes(range(256)) * 4
    assert gunzip(gzip.compress(body), bytes_max=1_024) == body
    with pytest.raises(TooLarge):
        gunzip(gzip.compress(body), bytes_max=1_023)


def test_the_ratio_is_no_limit() -> None:
    """Batches of like events pack far better than 100:1, and are taken up to the byte limit."""
    packed = gzip.compress(bytes(1_000_000))
    assert len(packed) * 100 < 1_000_000
    assert gunzip(packed, bytes_max=1_000_000) == bytes(1_000_000)


def test_a_bomb_costs_no_memory() -> None:
    """A bomb is noticed before its content is in memory."""
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(TooLarge):
        gunzip(bomb, bytes_max=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000


def test_members_have_a_limit() -> None:
    """A body made of countless empty members is not worked through."""
    assert gunzip(gzip.compress(b"a") * MEMBERS_MAX, bytes_max=1_000) == b"a" * MEMBERS_MAX
    with pytest.raises(CorruptGzip):
        gunzip(gzip.compress(b"a") * (MEMBERS_MAX + 1), bytes_max=1_000)
