"""The demo counts at both ends: it ends well with a daemon that loses nothing, and says so when one does."""

import asyncio
import hashlib
import io
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest

from forwarder.cli.demo import Keys, demo, demo_settings
from forwarder.cli.demo_view import Screen
from forwarder.demo.call_stream import LINKS
from forwarder.demo.scenario import Pace
from forwarder.demo.workflow import AUDIENCE_NAMES, NATIVE_NAMES
from forwarder.settings import Settings
from stand_ins.behaviour import Script
from stand_ins.listener import Asked, Listener, Said

BUSY = Pace(messages_per_s=40, calls_per_s=40, outage_first_s=0.3, outage_s=0.3, outage_every_s=60)


class SmallDaemon:
    """A bridge in memory: maps by the plain rules, retries until it is taken, and may lose or alter on demand."""

    def __init__(self, settings: Settings, *, loses: int = 0, renames: str = "") -> None:
        self._settings = settings
        self._loses = loses
        self._renames = renames
        self._known: set[str] = set()
        self._pending: set[asyncio.Task[None]] = set()
        self._http = aiohttp.ClientSession()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve both listeners until told to stop; then deliver what is left."""
        listeners = [
            Listener(answer, Script(), port=listen.port)
            for answer, listen in (
                (self._receive, self._settings.listen[0]),
                (self._tell, self._settings.operator_listen),
            )
        ]
        for listener in listeners:
            await listener.listen()
        await stop.wait()
        await asyncio.gather(*self._pending)
        for listener in listeners:
            await listener.refuse()
        await self._http.close()

    async def _tell(self, _asked: Asked) -> Said:
        return Said(status=200, body=b'forwarder_events{route="courier_to_rudderstack",state="pending"} 0\n')

    async def _receive(self, asked: Asked) -> Said:
        if asked.path == "/readyz":
            return Said(status=200, body=b"{}")
        event = orjson.loads(asked.body)
        for one in event.get("batch", [event]):
            key = hashlib.sha256(orjson.dumps(one)).hexdigest()
            if key not in self._known:
                self._known.add(key)
                self._deliver(one, key)
        return Said(status=200, body=b"ok")

    def _deliver(self, event: dict[str, Any], key: str) -> None:
        requests = self._webhook(event, key) if "data" in event else self._call(event)
        if requests and self._loses:
            self._loses -= 1
            return
        task = asyncio.create_task(self._insist(requests))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    def _webhook(self, event: dict[str, Any], key: str) -> list[tuple[str, str, object]]:
        data = event["data"]
        name = NATIVE_NAMES.get(data.get("status", "")) or AUDIENCE_NAMES.get(event["type"])
        if name is None:
            return []
        at_ms = data.get(data.get("status", "").lower()) or data.get("sent") or data.get("enqueued") or 0
        call = {
            "type": "track",
            "event": self._renames or name,
            "userId": data.get("recipientId") or data.get("recipient") or data["user_id"],
            "messageId": key,
            "properties": data,
            "timestamp": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        }
        return [("POST", f"{self._settings.rudderstack_data_plane_url}/v1/batch", {"batch": [call]})]

    def _call(self, event: dict[str, Any]) -> list[tuple[str, str, object]]:
        base, user = self._settings.courier_api_url, event["userId"]
        match event["type"]:
            case "identify":
                return [("POST", f"{base}/profiles/{user}", {"profile": event["traits"]})]
            case "group":
                tenant = f"{base}/tenants/{event['groupId']}"
                return [
                    ("PUT", tenant, event["traits"]),
                    ("PUT", f"{base}/users/{user}/tenants/{event['groupId']}", None),
                ]
            case "track" if event["event"] in LINKS:
                data = {"recipient": user, "data": event["properties"]}
                return [("POST", f"{base}/automations/{LINKS[event['event']]}/invoke", data)]
            case "track" if "courier" in event["properties"]:
                automation = event["properties"]["courier"]["automation"]
                body = {"recipient": user, "automation": automation, "data": automation["data"]}
                return [("POST", f"{base}/automations/invoke", body)]
            case _:
                return []

    async def _insist(self, requests: list[tuple[str, str, object]]) -> None:
        for method, url, body in requests:
            for _ in range(200):
                if await self._take(method, url, body):
                    break
                await asyncio.sleep(0.05)

    async def _take(self, method: str, url: str, body: object) -> bool:
        write_key, api_key = self._settings.rudderstack_write_key, self._settings.courier_api_key
        assert write_key is not None
        assert api_key is not None
        is_plane = urlsplit(url).path == "/v1/batch"
        basic, bearer = aiohttp.encode_basic_auth(write_key.get_secret_value(), ""), api_key.get_secret_value()
        headers = {"Authorization": basic if is_plane else f"Bearer {bearer}"}
        try:
            async with self._http.request(method, url, json=body, headers=headers) as response:
                return response.status < 300
        except aiohttp.ClientError:
            return False


async def run_demo(
    *, seconds: float | None = 0.9, loses: int = 0, renames: str = "", environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a short demo around the small daemon; return exit code and output."""
    stream, stop = io.StringIO(), asyncio.Event()

    async def run_daemon(settings: Settings, over: asyncio.Event) -> None:
        await SmallDaemon(settings, loses=loses, renames=renames).run(over)

    if seconds is None:
        asyncio.get_running_loop().call_later(0.9, stop.set)
    code = await demo(
        seconds, run_daemon=run_daemon, stop=stop, screen=Screen(stream, {}), environ=environ or {}, pace=BUSY
    )
    return code, stream.getvalue()


@pytest.mark.parametrize("seconds", [0.9, None], ids=["by itself", "by a signal"])
async def test_it_ends_with_exit_0_and_a_summary_when_nothing_was_lost(seconds: float | None) -> None:
    """Through an outage everything that was acknowledged arrives, in both directions."""
    code, output = await run_demo(seconds=seconds)

    last = output.strip().splitlines()[-1]
    assert code == 0, output
    assert last.endswith("lost 0")
    assert int(last.split()[1].rstrip(",")) > 30
    assert "outages of the data plane on the way: 1" in output
    assert output.splitlines()[0].startswith("The page is up: http://127.0.0.1:")
    for route in ("Courier -> RudderStack", "RudderStack -> Courier"):
        assert f"{route}: accepted " in output


async def test_a_loss_is_exit_1_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a daemon that acknowledges three events and forgets them is found out."""
    monkeypatch.setattr("forwarder.cli.demo._ARRIVE_MAX_S", 0.5)
    code, output = await run_demo(loses=3)

    assert code == 1
    assert output.strip().endswith("lost 3")


async def test_a_wrong_arrival_is_exit_1_and_named() -> None:
    """An event that arrives under another name is no success, though nothing was lost."""
    code, output = await run_demo(renames="Message Mangled")

    assert code == 1
    assert "wrong: name or user" in output


async def test_a_daemon_that_cannot_start_is_told_with_its_own_error() -> None:
    """Nothing is swallowed at the start."""

    async def run_daemon(_settings: Settings, _over: asyncio.Event) -> None:
        raise RuntimeError("no such disk")

    with pytest.raises(RuntimeError, match="no such disk"):
        await demo(1, run_daemon=run_daemon, stop=asyncio.Event(), screen=Screen(io.StringIO(), {}), environ={})


def settings_for(folder: Path, environ: Mapping[str, str]) -> Settings:
    """Return the demo's settings for an environment."""
    return demo_settings(
        folder, Keys(), plane_url="http://127.0.0.1:1", courier_url="http://127.0.0.1:2", environ=environ
    )


def test_listeners_come_from_the_environment(tmp_path: Path) -> None:
    """Both listeners are taken as they are set, port 0 as a free port; everything else is the demo's own."""
    settings = settings_for(
        tmp_path, {"FORWARDER_LISTEN": "127.0.0.1:1234", "FORWARDER_OPERATOR_LISTEN": ":0", "FORWARDER_DATA_DIR": "/x"}
    )

    assert str(settings.listen[0]) == "127.0.0.1:1234"
    assert settings.operator_listen.port > 0
    assert settings.data_dir == tmp_path / "data"
    assert len(settings.routes) == 2


def test_a_usual_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    """When somebody has 8080 or 8081 already, a free port is used."""
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 8080))
        except OSError:
            pass  # somebody else has it, which serves as well
        else:
            taken.listen()
        settings = settings_for(tmp_path, {})

    assert settings.listen[0].port != 8080
    assert settings.listen[0].host == "127.0.0.1"
