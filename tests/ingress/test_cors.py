"""What a page in a browser may ask and read, and of which endpoints."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.ingress.browsers import origin_of, preflight, readable
from forwarder.ingress.replies import Reply

PAGE = "https://shop.example"
ASKS = {"origin": PAGE, "access_control_request_method": "POST"}


def headers_of(reply: Reply) -> dict[str, str]:
    """Return the headers of an answer."""
    return dict(reply.headers)


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/t", "/t", "/beacon/v1/batch", "/v1/identify/", "/v1/anything"])
def test_a_page_may_post_to_the_sdk_endpoints(house: Any, path: str) -> None:
    """A preflight to any path of the SDKs is allowed, with the headers that it asks for, without a key."""
    reply = house.post(path, b"", "OPTIONS", **ASKS, access_control_request_headers="anonymousid,authorization")
    headers = headers_of(reply)
    assert (reply.status, reply.body) == (204, b"")
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == "anonymousid,authorization"
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("asked", ["", "a\nb", "x" * 2_000, "caf\u00e9"], ids=["none", "newline", "long", "not ASCII"])
def test_what_is_no_list_of_headers_is_not_repeated(house: Any, asked: str) -> None:
    """Rubbish instead of header names is answered with the names that SDKs use."""
    reply = house.post("/v1/batch", b"", "OPTIONS", **ASKS, access_control_request_headers=asked)
    assert "Authorization" in headers_of(reply)["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("OPTIONS", "/webhooks/courier", ASKS, 429, id="the webhook's endpoint"),
        pytest.param("OPTIONS", "/inbound/segment", ASKS, 429, id="an endpoint for servers"),
        pytest.param("OPTIONS", "/events", ASKS, 405, id="the bus' endpoint"),
        pytest.param("OPTIONS", "/v1", ASKS, 404, id="no path below v1"),
        pytest.param("OPTIONS", "/v1/batch", {"origin": PAGE}, 405, id="OPTIONS that is no preflight"),
    ],
)
def test_everything_else_is_no_preflight(
    house: Any, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Only a preflight to the SDKs' paths is answered as one."""
    assert house.post(path, b"", method, **headers).status == status


@pytest.mark.parametrize(
    ("path", "origin", "is_readable"),
    [
        pytest.param("/v1/batch", PAGE, True, id="a page"),
        pytest.param("/v1/batch", None, False, id="no page"),
        pytest.param("/v1/batch", "https://a b", False, id="no origin"),
        pytest.param("/v1/batch", "https://a\r\nX: 1", False, id="a forged header"),
        pytest.param("/inbound/rudderstack", PAGE, False, id="another endpoint"),
        pytest.param("/livez", PAGE, False, id="health"),
    ],
)
def test_a_page_reads_why_it_was_turned_away(house: Any, path: str, origin: str | None, *, is_readable: bool) -> None:
    """A refusal can be read by the page, and never makes its browser ask the visitor for a password."""
    headers = headers_of(house.post(path, b"", **({} if origin is None else {"origin": origin})))
    assert headers.get("Access-Control-Allow-Origin") == (PAGE if is_readable else None)
    assert (headers.get("Access-Control-Expose-Headers") == "Retry-After") is is_readable
    if is_readable:
        assert "WWW-Authenticate" not in headers


def test_a_page_reads_that_it_must_come_back(build_house: Callable[..., Any]) -> None:
    """What a page's SDK does not read it cannot heed: the time to come back is among the readable headers."""
    headers = headers_of(build_house(routes=frozenset()).post("/v1/batch", b"", origin=PAGE))
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Retry-After"]


@given(st.binary(), st.binary())
@settings(max_examples=200, deadline=None)
def test_no_header_can_be_smuggled_in(origin: bytes, asked: bytes) -> None:
    """Whatever a page calls itself and asks for, no value holds a line break or anything but ASCII."""
    headers = {
        b"origin": origin,
        b"access-control-request-method": b"POST",
        b"access-control-request-headers": asked,
    }
    reply = preflight(b"OPTIONS", headers, methods="POST")
    assert reply is not None
    for _, value in readable(reply, origin_of(headers)).headers:
        assert value.isascii()
        assert value.isprintable()
