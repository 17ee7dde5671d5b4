"""A data folder that vanishes with its container is named before events are lost with it."""

from pathlib import Path

import pytest

from forwarder.settings.data_volume import left_behind, volume_doubt

_HEX = "c41e4d0f4c2a1d933f7ecb4d4e58d46cddd26baaf3f281ded6707f383ce5ba78"
# As a container of Docker sees them.
_MOUNTS = f"""\
342 218 0:62 / / rw,relatime master:89 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c
343 342 0:65 / /proc rw,nosuid - proc proc rw
359 342 254:0 /var/lib/docker/volumes/{_HEX}/_data /data rw,relatime master:1 - ext4 /dev/vda rw
360 342 254:0 /var/lib/docker/volumes/named/_data /named rw,relatime master:1 - ext4 /dev/vda rw
361 342 254:0 /srv/forwarder /with\\040blank rw,relatime - ext4 /dev/vda rw
362 342 0:71 / /memory rw,nosuid - tmpfs tmpfs rw
363 362 254:0 / /memory/disk rw - ext4 /dev/vda rw
364 342 254:0 / /covered rw - ext4 /dev/vda rw
365 364 0:72 / /covered rw - tmpfs tmpfs rw
366 342 254:1 /volumes/{_HEX}x/_data /almost rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("/data", "an anonymous volume: acknowledged events that wait are lost with `docker run --rm`"),
        ("/data/deeper", "an anonymous volume"),
        ("/database", "in the container's own layer"),
        ("/memory/x", "in memory (tmpfs)"),
        ("/covered", "in memory (tmpfs)"),
        ("/named", None),
        ("/with blank", None),
        ("/memory/disk", None),
        ("/almost", None),
    ],
)
def test_what_vanishes_is_named(folder: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deepest mount that holds the folder decides."""
    (tmp_path / "mounts").write_text(_MOUNTS)
    monkeypatch.setattr("forwarder.settings.data_volume.MOUNTS", tmp_path / "mounts")
    told = volume_doubt(Path(folder))
    assert (told is None) if said is None else (told is not None and said in told and f"({folder})" in told)


def test_a_system_without_such_a_list_is_not_doubted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said where nothing is known."""
    monkeypatch.setattr("forwarder.settings.data_volume.MOUNTS", tmp_path / "none")
    assert volume_doubt(tmp_path) is None


def test_this_machines_own_list_is_understood(tmp_path: Path) -> None:
    """Whatever this machine says, it is no error."""
    volume_doubt(tmp_path)


def test_a_spool_that_a_daemon_on_postgres_does_not_read_is_named(tmp_path: Path) -> None:
    """What waits in the data folder is not forgotten when the daemon keeps its events in a database."""
    assert left_behind(tmp_path) is None
    (tmp_path / "spool.db").touch()
    told = left_behind(tmp_path)
    assert told is not None
    assert "forwarder migrate --to postgres" in told
