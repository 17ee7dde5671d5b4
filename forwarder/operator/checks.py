"""Is everything as it must be: settings, files, the data folder or the database, the spool, the clock?

For `forwarder check` and for the page's settings. Deliberately absent: the vendors, and how a finding is shown.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import apsw

from forwarder.engine import database_remarks
from forwarder.errors import RulesInvalid, SettingsInvalid, SpoolUnusable
from forwarder.operator.text import size
from forwarder.ports import Clock
from forwarder.settings import Settings
from forwarder.settings.data_volume import volume_doubt
from forwarder.settings.otel import TracingSettings, load_sdk
from forwarder.settings.together import KEEP_OLD_INBOUND_KEYS, doubts
from forwarder.settings.toml_files import read_links, read_mapping
from forwarder.spool.sqlite.database import DATABASE_NAME, open_reader

Level = Literal["ok", "warn", "fail"]

# The first with the fix for WAL databases whose log is reset while it is read.
_SQLITE_MIN = (3, 51, 3)
_YEARS = range(2026, 2100)
_PRIVATE = 0o077


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `text` says how it is and, unless ok, what to do."""

    level: Level
    name: str
    text: str

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def is_failed(findings: Sequence[Finding]) -> bool:
    """Tell whether something must be put right before the daemon can work."""
    return any(finding.level == "fail" for finding in findings)


def local_findings(settings: Settings, *, now_ms: int, reads_spool: bool = True) -> Iterator[Finding]:
    """Look at everything that needs no vendor. Changes nothing but a file that is made and removed.

    `reads_spool` False leaves out what takes long: reading the whole database, or asking another machine's. Blocks.
    """
    yield Finding("ok", "settings", "routes: " + ", ".join(route.value for route in settings.routes))
    for doubt in doubts(settings):
        yield Finding("warn", "settings", doubt)
    if keys := len(settings.inbound_keys):
        yield Finding("ok", "inbound keys", f"{keys} {'is' if keys == 1 else 'are'} taken; {KEEP_OLD_INBOUND_KEYS}")
    if alerts := _alerts(settings):
        yield Finding("ok", "alerts", f"incidents are told {' and '.join(alerts)}; `forwarder alert --test` tries it")
    if settings.reading.tracing:
        yield _tracing(settings.reading.tracing)
    yield from _files(settings)
    if settings.spool == "postgres":
        yield from _database(settings, asks_it=reads_spool)
    else:
        yield from _folder(settings)
        if volume := volume_doubt(settings.data_dir):
            yield Finding("warn", "data volume", volume)
        yield _spool(settings, reads_it=reads_spool)
    yield _clock(now_ms)


@dataclass(frozen=True, slots=True)
class LocalCheck:
    """The local findings for somebody who holds no settings. Blocks: call it on a thread of its own."""

    settings: Settings
    clock: Clock

    def __call__(self, *, is_thorough: bool) -> Sequence[Finding]:
        """Look; `is_thorough` also reads the whole spool."""
        return tuple(local_findings(self.settings, now_ms=self.clock.wall_ms(), reads_spool=is_thorough))


def _alerts(settings: Settings) -> list[str]:
    told = [f"to {urlsplit(settings.alert_url.get_secret_value()).hostname}"] if settings.alert_url else []
    return told + ([f"through Courier to {len(settings.alert_to)}"] if settings.alert_to else [])


def _tracing(tracing: TracingSettings) -> Finding:
    try:
        load_sdk(tracing)
    except SettingsInvalid as error:
        return Finding("fail", "traces", str(error))
    where = [f"by OTLP to {tracing.endpoint}" if name == "otlp" else "to standard output" for name in tracing.exporters]
    return Finding("ok", "traces", f"spans go {' and '.join(where)}")


def _files(settings: Settings) -> Iterator[Finding]:
    readers = (
        ("rules", settings.rules, read_mapping),
        ("links", settings.links, read_links),
    )
    for name, path, read in readers:
        if path is None:
            continue
        try:
            read(settings)
        except RulesInvalid as error:
            for line in str(error).splitlines():
                yield Finding("fail", name, line)
        else:
            yield Finding("ok", name, str(path))


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not _is_writable(existing):
        yield Finding(
            "fail", "data folder", f"{existing} cannot be written: give it to this user, or set FORWARDER_DATA_DIR"
        )
        return
    free = shutil.disk_usage(existing).free
    used = (folder / DATABASE_NAME).stat().st_size if (folder / DATABASE_NAME).exists() else 0
    if free < settings.spool_bytes_max - used:
        yield Finding(
            "warn",
            "data folder",
            f"{size(free)} free, less than FORWARDER_SPOOL_BYTES_MAX ({size(settings.spool_bytes_max)}) may "
            "take: make room or lower the cap, so that history is evicted before the disk is full",
        )
    if folder.exists() and folder.stat().st_mode & _PRIVATE:
        yield Finding("warn", "data folder", f"others may enter {folder}: `chmod 700` it (the daemon will)")
    yield Finding("ok", "data folder", f"{folder} can be written, {size(free)} free")


def _is_writable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError:
        return False
    return True


def _spool(settings: Settings, *, reads_it: bool) -> Finding:
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < _SQLITE_MIN:
        needed = ".".join(str(part) for part in _SQLITE_MIN)
        return Finding("fail", "spool", f"SQLite {version} is too old, {needed} is needed: install a current apsw")
    if not (settings.data_dir / DATABASE_NAME).exists():
        return Finding("ok", "spool", f"not made yet, SQLite {version}")
    if not reads_it:
        return Finding("ok", "spool", f"SQLite {version}; its pages were not read")
    try:
        connection = open_reader(settings.data_dir)
        try:
            verdict = str(connection.pragma("quick_check", 1))
        finally:
            connection.close()
    except SpoolUnusable as error:
        return Finding("fail", "spool", str(error))
    except apsw.Error as error:
        verdict = str(error)
    if verdict != "ok":
        return Finding(
            "fail",
            "spool",
            f"damaged ({verdict}): stop the daemon, keep a copy, restore it from a backup or recover it",
        )
    return Finding("ok", "spool", f"sound, SQLite {version}")


def _database(settings: Settings, *, asks_it: bool) -> Iterator[Finding]:
    if not asks_it:
        yield Finding("ok", "database", "was not asked")
        return
    try:
        for remark in database_remarks(settings):
            yield Finding(remark.level, "database", remark.text)
    except SettingsInvalid as error:
        yield Finding("fail", "database", str(error))


def _clock(now_ms: int) -> Finding:
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    if now.year not in _YEARS:
        return Finding("fail", "clock", f"it says {now:%Y-%m-%d}: set it; signatures are judged by it")
    return Finding("ok", "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC (--connect compares it with the vendors')")
