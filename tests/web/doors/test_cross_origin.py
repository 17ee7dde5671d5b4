"""What a page in a browser may ask and read, and of which doors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.web.cross_origin import preflight, readable
from forwarder.web.doors import Reply

PAGE = "https://shop.example"
ASKS = {"origin": PAGE, "access-control-request-method": "POST"}
REFUSED = Reply(401, b"invalid write key\n", headers=(("WWW-Authenticate", "Basic"), ("Retry-After", "60")))


@pytest.mark.parametrize("path", ["/v1/batch", "/v1/track", "/v1/identify/", "/v1/anything"])
def test_a_page_may_post_to_the_sdk_doors(path: str) -> None:
    """A preflight to any path of the gateway's is allowed, with the headers that it asks for."""
    asks = ASKS | {"access-control-request-headers": "anonymousid,authorization,content-type"}
    reply = preflight("OPTIONS", path, asks.get)
    assert reply is not None
    answer = readable(reply, path, asks.get)
    assert (answer.status, answer.body) == (204, b"")
    headers = dict(answer.headers)
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert headers["Access-Control-Allow-Headers"] == "anonymousid,authorization,content-type"
    assert headers["Vary"] == "Origin"


@pytest.mark.parametrize("asked", ["", "a\nb", "x" * 2_000, "caf\u00e9"], ids=["none", "newline", "long", "not ASCII"])
def test_what_is_no_list_of_headers_is_not_repeated(asked: str) -> None:
    """Rubbish instead of header names is answered with the names that SDKs use."""
    asks = ASKS | {"access-control-request-headers": asked}
    reply = preflight("OPTIONS", "/v1/batch", asks.get)
    assert reply is not None
    assert "Authorization" in dict(reply.headers)["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        pytest.param("OPTIONS", "/webhooks/courier", ASKS, id="the webhook's door"),
        pytest.param("OPTIONS", "/inbound/segment", ASKS, id="a door for servers"),
        pytest.param("OPTIONS", "/events", ASKS, id="the bus' door"),
        pytest.param("OPTIONS", "/v1", ASKS, id="no path below v1"),
        pytest.param("POST", "/v1/batch", ASKS, id="the post itself"),
        pytest.param("OPTIONS", "/v1/batch", {"origin": PAGE}, id="OPTIONS that is no preflight"),
    ],
)
def test_everything_else_is_no_preflight(method: str, path: str, headers: dict[str, str]) -> None:
    """Only a preflight to `/v1/*` is answered here."""
    assert preflight(method, path, headers.get) is None


def test_a_page_reads_why_it_was_turned_away() -> None:
    """A refusal can be read by the page, and never makes its browser ask the visitor for a password."""
    headers = dict(readable(REFUSED, "/v1/batch", {"origin": PAGE}.get).headers)
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Access-Control-Expose-Headers"] == "Retry-After"
    assert headers["Retry-After"] == "60"
    assert "WWW-Authenticate" not in headers


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/v1/batch", {}, id="no page"),
        pytest.param("/v1/batch", {"origin": "https://a b"}, id="no origin"),
        pytest.param("/v1/batch", {"origin": "https://a\r\nX: 1"}, id="a forged header"),
        pytest.param("/inbound/rudderstack", {"origin": PAGE}, id="another door"),
        pytest.param("/livez", {"origin": PAGE}, id="health"),
    ],
)
def test_no_other_answer_changes(path: str, headers: dict[str, str]) -> None:
    """Without a page, and on every other path, the answer is what it was."""
    assert readable(REFUSED, path, headers.get) is REFUSED


@given(st.text(), st.text())
@settings(max_examples=200, deadline=None)
def test_no_header_can_be_smuggled_in(origin: str, asked: str) -> None:
    """Whatever a page calls itself and asks for, no value holds a line break or anything but ASCII."""
    headers = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": asked}
    reply = preflight("OPTIONS", "/v1/batch", headers.get)
    assert reply is not None
    for _, value in readable(reply, "/v1/batch", headers.get).headers:
        assert value.isascii()
        assert value.isprintable()
