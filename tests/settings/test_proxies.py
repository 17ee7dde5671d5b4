"""Proxies as curl takes them, and what we cannot speak to named before it is tried."""

from pathlib import Path

import pytest

from forwarder.errors import SettingsInvalid
from forwarder.settings import load
from forwarder.settings.proxies import read_proxies

_BOTH = {
    "RUDDERSTACK_WRITE_KEY": "wk-1",
    "RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com",
    "COURIER_WEBHOOK_SECRET": "whsec",
    "COURIER_API_KEY": "ck",
    "FORWARDER_INBOUND_KEYS": "ik",
}


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://dp.example.com", None),
        ({"https_proxy": "http://p:3128"}, "https://dp.example.com", "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, "https://dp.example.com", "http://p:3128"),
        (
            {"https_proxy": "http://small:1", "HTTPS_PROXY": "http://large:1"},
            "https://dp.example.com",
            "http://small:1",
        ),
        ({"https_proxy": "127.0.0.1:3128"}, "https://dp.example.com", "http://127.0.0.1:3128"),
        ({"https_proxy": "u:p@127.0.0.1:3128"}, "https://dp.example.com", "http://u:p@127.0.0.1:3128"),
        ({"http_proxy": "p:1"}, "https://dp.example.com", None),
        ({"http_proxy": "p:1"}, "http://127.0.0.1:8080", "http://p:1"),
        ({"ALL_PROXY": "p:1"}, "https://dp.example.com", "http://p:1"),
        ({"all_proxy": "p:1", "https_proxy": "q:1"}, "https://dp.example.com", "http://q:1"),
        ({"https_proxy": " "}, "https://dp.example.com", None),
        ({"https_proxy": "p:1", "no_proxy": "*"}, "https://dp.example.com", None),
        ({"https_proxy": "p:1", "NO_PROXY": "a.org,example.com"}, "https://dp.example.com", None),
        ({"https_proxy": "p:1", "NO_PROXY": ".EXAMPLE.com"}, "https://dp.example.com", None),
        ({"https_proxy": "p:1", "NO_PROXY": "*.example.com"}, "https://dp.example.com", None),
        ({"https_proxy": "p:1", "NO_PROXY": "a.org dp.example.com"}, "https://dp.example.com.", None),
        ({"https_proxy": "p:1", "NO_PROXY": "ple.com"}, "https://dp.example.com", "http://p:1"),
        ({"https_proxy": "p:1", "NO_PROXY": "dp.example.com:8443"}, "https://dp.example.com", "http://p:1"),
        ({"https_proxy": "p:1", "NO_PROXY": "dp.example.com:8443"}, "https://dp.example.com:8443", None),
        ({"http_proxy": "p:1", "NO_PROXY": "127.0.0.0/8"}, "http://127.0.0.1:8080", None),
        ({"http_proxy": "p:1", "NO_PROXY": "[::1]"}, "http://[::1]:8080", None),
        ({"http_proxy": "p:1", "NO_PROXY": "10.0.0.0/8"}, "http://127.0.0.1:8080", "http://p:1"),
    ],
)
def test_a_proxy_is_found_as_curl_finds_it(environ: dict[str, str], url: str, proxy: str | None) -> None:
    """Schemes, capitals, a missing scheme, and the exceptions."""
    assert read_proxies(environ).url_for(url) == proxy


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"https_proxy": "socks5://u:hunter2@127.0.0.1:1080"}, "https_proxy: socks5:// proxies are not spoken to"),
        ({"ALL_PROXY": "socks5h://127.0.0.1:1080"}, "ALL_PROXY: socks5h:// proxies"),
        ({"HTTPS_PROXY": "http://"}, "HTTPS_PROXY: it is no proxy's URL"),
        ({"HTTPS_PROXY": "http://[::1"}, "HTTPS_PROXY: it is no proxy's URL"),
        ({"HTTPS_PROXY": "p:hunter2"}, "HTTPS_PROXY: it is no proxy's URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(environ: dict[str, str], said: str, tmp_path: Path) -> None:
    """The error names the variable, once, and shows no password."""
    with pytest.raises(SettingsInvalid) as raised:
        load(_BOTH | environ, tmp_path)
    assert said in str(raised.value)
    assert str(raised.value).startswith("1 problem")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"http_proxy": "socks5://p:1"},
        {"all_proxy": "socks5://p:1", "no_proxy": "example.com,courier.com"},
        {"all_proxy": "socks5://p:1", "https_proxy": "p:3128"},
    ],
    ids=["another scheme", "excepted", "overridden"],
)
def test_a_proxy_that_is_not_asked_is_not_judged(environ: dict[str, str], tmp_path: Path) -> None:
    """A desktop's socks proxy stops nothing when the vendors are reached without it."""
    assert load(_BOTH | environ, tmp_path).routes


def test_a_proxy_shows_no_password(tmp_path: Path) -> None:
    """Neither it nor the settings that hold it."""
    read = load(_BOTH | {"https_proxy": "http://u:hunter2@p:1"}, tmp_path)
    assert "hunter2" not in f"{read!r} {read.reading!r}"
    assert read.reading.proxies.url_for("https://x") == "http://u:hunter2@p:1"
