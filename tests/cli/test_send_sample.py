"""`send-sample` posts what Courier would, and says what every answer means and what to do."""

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from forwarder.cli.send_sample import Sample, sample, send_sample
from forwarder.demo.signing import signed
from forwarder.settings import Settings
from stand_ins.behaviour import HangsUp, Says, Script
from stand_ins.listener import Asked, Listener, Said


class Endpoint:
    """A receiver that takes everything and remembers it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script = Script()
        self.listener = Listener(self.answer, self.script)

    async def answer(self, asked: Asked) -> Said:
        """Take it."""
        self.asked.append(asked)
        return Said(status=200, body=b'{"accepted":1,"duplicates":0}')


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on loopback."""
    one = Endpoint()
    await one.listener.listen()
    yield one
    await one.listener.refuse()


def wanted(url: str, *, status: str = "SENT", count: int = 1, is_secret_our_own: bool = False) -> Sample:
    """A sample with an invented secret."""
    return Sample(
        url=url,
        secret="s3cret",
        is_secret_our_own=is_secret_our_own,
        status=status,
        count=count,
        page_url="http://127.0.0.1:8081",
    )


async def test_samples_are_signed_webhooks_and_the_next_step_is_named(endpoint: Endpoint) -> None:
    """Each sample is a distinct event with a good signature; the page and the event's name are told."""
    lines: list[str] = []

    assert await send_sample(wanted(endpoint.listener.url, count=3), lines.append) == 0

    assert len({asked.body for asked in endpoint.asked}) == 3
    for asked in endpoint.asked:
        stamp = int(asked.headers["courier-signature"].split(",")[0][2:])
        assert signed(asked.body, "s3cret", stamp)["courier-signature"] == asked.headers["courier-signature"]
    said = "\n".join(lines)
    assert said.count("→  200") == 3
    assert '"Message Sent"' in said
    assert "http://127.0.0.1:8081" in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("status", "times"),
    [
        ("ENQUEUED", {"enqueued"}),
        ("SENT", {"enqueued", "sent"}),
        ("CLICKED", {"enqueued", "sent", "delivered", "opened", "clicked"}),
        ("UNDELIVERABLE", {"enqueued", "sent"}),
        ("ROUTED", {"enqueued"}),
    ],
)
async def test_each_status_has_its_shape(endpoint: Endpoint, status: str, times: set[str]) -> None:
    """The sample of a status carries that status and the times that come with it."""
    await send_sample(wanted(endpoint.listener.url, status=status), lambda _line: None)

    data = orjson.loads(endpoint.asked[0].body)["data"]
    assert data["status"] == status
    assert {key for key, value in data.items() if isinstance(value, int)} == times


@pytest.mark.parametrize("is_own", [True, False], ids=["the setting's secret", "a secret that was given"])
async def test_a_secret_is_not_proved_with_itself(endpoint: Endpoint, *, is_own: bool) -> None:
    """A sample that was signed with the daemon's own setting says that Courier's secret is not proved by it."""
    lines: list[str] = []
    await send_sample(wanted(endpoint.listener.url, is_secret_our_own=is_own), lines.append)
    assert ("is not proved" in lines[-1]) == is_own


async def test_what_courier_does_not_export_is_said_to_end_filtered(endpoint: Endpoint) -> None:
    """A status that is not native is explained before somebody looks for it in vain."""
    lines: list[str] = []
    await send_sample(wanted(endpoint.listener.url, status="ENQUEUED"), lines.append)

    assert "ends filtered" in lines[-1]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "no secret"),
        (404, "FORWARDER_LISTEN"),
        (429, "--secret"),
        (503, "forwarder status"),
        (520, "does --url lead to something else?"),
    ],
    ids=str,
)
async def test_a_refusal_is_explained(endpoint: Endpoint, status: int, words: str) -> None:
    """Every answer but a 2xx is exit code 1 and a remedy."""
    endpoint.script.behave(Says(status=status))
    lines: list[str] = []

    assert await send_sample(wanted(endpoint.listener.url, count=2), lines.append) == 1
    assert words in lines[-1]
    assert endpoint.listener.requests == 1


async def test_no_answer_is_explained(endpoint: Endpoint) -> None:
    """A daemon that is not there is exit code 1 and the command that starts it."""
    endpoint.script.once(HangsUp())
    lines: list[str] = []

    assert await send_sample(wanted(endpoint.listener.url), lines.append) == 1
    assert "forwarder run" in lines[-1]


def test_what_is_not_given_comes_from_the_settings(tmp_path: Path) -> None:
    """Listener, first secret and page come from the settings; what is given wins."""
    settings = Settings.model_validate(
        {
            "COURIER_WEBHOOK_SECRET": "first,second",
            "FORWARDER_LISTEN": "0.0.0.0:9090",
            "FORWARDER_DATA_DIR": str(tmp_path),
        }
    )

    default = sample(settings, url=None, secret=None, status="sent", count=1)
    given = sample(settings, url="http://there:1/", secret="mine", status="sent", count=2)

    assert (default.url, default.secret, default.status) == ("http://127.0.0.1:9090", "first", "SENT")
    assert default.page_url == "http://127.0.0.1:8081"
    assert (default.is_secret_our_own, given.is_secret_our_own) == (True, False)
    assert (given.url, given.secret, given.count) == ("http://there:1", "mine", 2)


def test_without_any_secret_it_says_which_setting_is_missing() -> None:
    """Nothing is posted unsigned."""
    with pytest.raises(ValueError, match="COURIER_WEBHOOK_SECRET"):
        sample(Settings.model_validate({}), url=None, secret=None, status="SENT", count=1)
