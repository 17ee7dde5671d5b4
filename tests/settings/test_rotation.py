"""Secrets that change under a running daemon: swapped whole, or refused while the old ones stay."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from structlog.testing import CapturingLogger

from forwarder.settings import Settings, load
from forwarder.settings.rotation import Rotation
from forwarder.telemetry.metrics import Metrics
from forwarder.telemetry.reporter import Reporter

_OTHERS = {"RUDDERSTACK_DATA_PLANE_URL": "https://dp.example.com/", "COURIER_WEBHOOK_SECRET": "old,new"}


class Log(CapturingLogger):
    """Lines that can be waited for."""

    def events(self) -> list[str]:
        """Return the names of what was told."""
        return [call.kwargs["event"] for call in self.calls]

    async def wait_for(self, event: str) -> dict[str, object]:
        """Return the first line of that name."""
        async with asyncio.timeout(60):
            while event not in self.events():  # noqa: ASYNC110 - the lines are plain on purpose
                await asyncio.sleep(0.005)
        told: dict[str, object] = next(call.kwargs for call in self.calls if call.kwargs["event"] == event)
        return told


@dataclass
class Running:
    """A rotation at work on a folder of secrets, and what it gave."""

    folder: Path
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[str] = field(default_factory=list)
    taken: list[Settings] = field(default_factory=list)

    def write(self, variable: str, text: str) -> None:
        """Put a secret into its file."""
        (self.folder / "secrets" / variable).write_text(text)

    def swap(self, settings: Settings) -> None:
        """Take what was swapped in."""
        assert settings.rudderstack_write_key is not None
        self.taken.append(settings)
        self.keys.append(settings.rudderstack_write_key.get_secret_value())


@asynccontextmanager
async def _running(
    folder: Path, *, look_every_s: float, meanwhile: str = "first", **environ: str
) -> AsyncIterator[Running]:
    (folder / "secrets").mkdir()
    one = Running(folder)
    one.write("RUDDERSTACK_WRITE_KEY", "first")
    settings = load(_OTHERS | {"FORWARDER_SECRETS_DIR": "secrets"} | environ, folder)
    one.write("RUDDERSTACK_WRITE_KEY", meanwhile)
    assert settings.reading.place is not None
    log = structlog.wrap_logger(one.log, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    rotation = Rotation(
        settings,
        settings.reading.place,
        swaps=[one.swap],
        asked=one.asked,
        reporter=Reporter(one.metrics, log),
        look_every_s=look_every_s,
    )
    task = asyncio.create_task(rotation.run())
    one.asked.set()
    await one.log.wait_for("secrets.read")  # it has looked once, so that what comes now is a change
    one.log.calls.clear()
    yield one
    await rotation.drain()
    async with asyncio.timeout(60):
        await task


async def test_a_hangup_takes_what_changed(tmp_path: Path) -> None:
    """Asked for, a secret that changed is in use at once, and its name is told, not its value."""
    async with _running(tmp_path, look_every_s=3_600) as one:
        one.write("RUDDERSTACK_WRITE_KEY", "second")
        one.asked.set()
        assert (await one.log.wait_for("secrets.read"))["replaced"] == ["RUDDERSTACK_WRITE_KEY"]
        assert one.keys == ["second"]
        assert "second" not in str(one.log.calls)


async def test_a_change_is_found_without_being_told(tmp_path: Path) -> None:
    """A file that changed and stays as it is counts by itself."""
    async with _running(tmp_path, look_every_s=0.01) as one:
        one.write("RUDDERSTACK_WRITE_KEY", "second")
        await one.log.wait_for("secrets.read")
        assert one.keys == ["second"]


async def test_nothing_new_is_told_only_to_who_asks(tmp_path: Path) -> None:
    """Looking finds nothing in silence; a hangup is answered."""
    async with _running(tmp_path, look_every_s=0.001) as one:
        await asyncio.sleep(0.05)  # several looks
        assert one.log.events() == []
        one.asked.set()
        assert (await one.log.wait_for("secrets.read"))["replaced"] == []
        assert one.keys == []


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("RUDDERSTACK_WRITE_KEY", '"second"', "begins and ends with a quote"),
        ("RUDDERSTACK_WRITE_KEY", "", "incomplete"),
        ("FORWARDER_EVENTS_KEY", "a-new-one", "FORWARDER_EVENTS_KEY: set or unset while it runs. Restart"),
    ],
)
async def test_a_change_that_cannot_be_used_is_refused(tmp_path: Path, variable: str, text: str, said: str) -> None:
    """The reason is told once, nothing is swapped, and what is right again is taken."""
    async with _running(tmp_path, look_every_s=0.01) as one:
        one.write(variable, text)
        assert said in str((await one.log.wait_for("secrets.refused"))["reason"])
        await asyncio.sleep(0.05)  # several looks
        assert one.log.events() == ["secrets.refused"]
        assert one.keys == []
        assert one.metrics.registry.get_sample_value("forwarder_secrets_refused") == 1
        (tmp_path / "secrets" / variable).unlink()
        one.write("RUDDERSTACK_WRITE_KEY", "third")
        await one.log.wait_for("secrets.read")
        assert one.keys == ["third"]
        assert one.metrics.registry.get_sample_value("forwarder_secrets_refused") == 0


async def test_a_set_of_secrets_is_judged_as_a_whole(tmp_path: Path) -> None:
    """One wrong secret keeps a right one beside it from being taken alone."""
    async with _running(tmp_path, look_every_s=3_600) as one:
        one.write("RUDDERSTACK_WRITE_KEY", "second")
        one.write("FORWARDER_OPERATOR_TOKEN", "replace-me")
        one.asked.set()
        await one.log.wait_for("secrets.refused")
        assert one.keys == []


async def test_other_settings_wait_for_the_restart(tmp_path: Path) -> None:
    """A setting that is no secret is named, and stays as it was."""
    async with _running(tmp_path, look_every_s=3_600) as one:
        (tmp_path / ".env").write_text("FORWARDER_LOG_LEVEL=debug\n")
        one.asked.set()
        assert (await one.log.wait_for("settings.restart_needed"))["variables"] == ["FORWARDER_LOG_LEVEL"]
        assert one.keys == []


async def test_a_secret_brings_nothing_else_along(tmp_path: Path) -> None:
    """Who takes a secret that was replaced is given all else as it was, also when that changed before or with it."""
    async with _running(tmp_path, look_every_s=3_600) as one:
        (tmp_path / ".env").write_text("FORWARDER_BODY_BYTES_MAX=1000\n")
        one.asked.set()
        await one.log.wait_for("settings.restart_needed")
        (tmp_path / ".env").write_text("FORWARDER_BODY_BYTES_MAX=1000\nFORWARDER_SIGNATURE_AGE_MAX_S=1\n")
        one.write("RUDDERSTACK_WRITE_KEY", "second")
        one.log.calls.clear()
        one.asked.set()
        needed = await one.log.wait_for("settings.restart_needed")
        assert needed["variables"] == ["FORWARDER_SIGNATURE_AGE_MAX_S", "FORWARDER_BODY_BYTES_MAX"]
        assert one.keys == ["second"]
        assert [(taken.body_bytes_max, taken.signature_age_max_s) for taken in one.taken] == [(6_291_456, 93_600)]


async def test_a_change_during_the_start_is_found(tmp_path: Path) -> None:
    """A secret that was replaced after the start had read it is taken like any other."""
    async with _running(tmp_path, look_every_s=0.01, meanwhile="second") as one:
        assert one.keys == ["second"]


async def test_a_hangup_says_again_what_is_wrong(tmp_path: Path) -> None:
    """Asked about secrets that were refused and stayed as they are, it does not say that all is well."""
    async with _running(tmp_path, look_every_s=3_600) as one:
        one.write("RUDDERSTACK_WRITE_KEY", "replace-me")
        for _ in range(2):
            one.log.calls.clear()
            one.asked.set()
            await one.log.wait_for("secrets.refused")


async def test_a_mounted_secret_is_taken_when_it_is_swapped(tmp_path: Path) -> None:
    """Kubernetes swaps a link to the folder that all files lead through: what they lead to then is read."""
    async with _running(tmp_path, look_every_s=0.01) as one:
        folder = tmp_path / "secrets"
        for version, key in (("..1", "first"), ("..2", "second")):
            (folder / version).mkdir()
            (folder / version / "RUDDERSTACK_WRITE_KEY").write_text(key)
        (folder / "..data").symlink_to("..1")
        (folder / "link").symlink_to("..data/RUDDERSTACK_WRITE_KEY")
        (folder / "link").replace(folder / "RUDDERSTACK_WRITE_KEY")
        (folder / "..new").symlink_to("..2")
        (folder / "..new").replace(folder / "..data")
        await one.log.wait_for("secrets.read")
        assert one.keys == ["second"]
