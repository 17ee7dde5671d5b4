"""A spool with a million settled events, made in seconds, and the real daemon over it.

The rows are written by SQL in the schema's own shape, without syncing: a million appends and leases would take longer
than everything that is measured. What the writer builds behind its commits (the blocks of labels) is built by its
own code. Absent: what is asked (the test).
"""

import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from forwarder.spool.limits import SpoolLimits
from forwarder.spool.store.database import open_writer
from forwarder.spool.store.segments import SEGMENT_EVENTS, Segments
from forwarder.spool.store.transaction import Transaction, load_memory
from stand_ins.process import DaemonProcess

EVENTS = 1_000_000
RARE = 17  # the sequence of an event that has its name, user, message and reason to itself, at the far end
_AGO_MS = 518_400_000  # six days: all within the retention

# Four statuses a message outbound; calls of 200 names inbound, two of five events. States by a spread-out remainder.
_PLAN = f"""
CREATE TEMP TABLE plan AS
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {EVENTS})
SELECT n, n / 4 AS m, (n / 4) % 5 >= 3 AS route, (n * 2654435761) % 100 AS x,
       ((n / 4) * 40503) % 50000 AS user, (n * 7919) % 200 AS name, n % 10 = 0 AS is_identify FROM numbers
"""  # noqa: S608 - our own integer
_EVENTS = f"""
INSERT INTO events (sequence, route, event_key, partition, received_at_ms, source, type, event, message_id, user_id,
    size, checksum, payload)
SELECT n, route, randomblob(16), '', :begin_ms + n * {_AGO_MS} / {EVENTS}, iif(route, 'rudderstack', 'webhook'),
       iif(route, iif(is_identify, 'identify', 'track'), 'message:updated'), event, message, user, length(payload),
       crc(payload), payload
FROM (SELECT *, CAST(iif(route,
    '{{"type":"track","event":"' || event || '","userId":"' || user || '","messageId":"' || message ||
    '","properties":{{"order_id":"order-' || n || '","value":' || (n % 900) || '}},"context":' || :more,
    '{{"type":"message:updated","data":{{"id":"' || message || '","status":"' || upper(substr(event, 9)) ||
    '","recipient":"' || user || '","providers":[{{"provider":"sendgrid","status":"SENT"}}],"more":' || :more) AS BLOB)
    AS payload
  FROM (SELECT n, route, is_identify,
    CASE WHEN n = {RARE} THEN 'Rare Event' WHEN route AND is_identify THEN 'identify'
         WHEN route THEN 'Product Viewed ' || name
         ELSE 'Message ' || CASE n % 4 WHEN 0 THEN 'Sent' WHEN 1 THEN 'Delivered' WHEN 2 THEN 'Opened' ELSE 'Clicked'
         END END AS event,
    CASE WHEN n = {RARE} THEN 'rare-message' WHEN route THEN 'call-' || n ELSE '1-' || m || '-15f7d6ba51bf2298' END
         AS message,
    CASE WHEN n = {RARE} THEN 'rare-user' ELSE 'user-' || user END AS user FROM plan))
"""  # noqa: S608 - our own integers
_OUTCOMES = f"""
INSERT INTO outcomes (route, state, sequence, settled_at_ms, attempts, reason_id, attempt_id, earlier_ids, is_discarded)
SELECT route, state, n, :begin_ms + n * {_AGO_MS} / {EVENTS} + 180, 1,
       CASE WHEN n = {RARE} THEN 600 WHEN state = 1 THEN NULL WHEN state = 2 THEN 200 + route
            WHEN state = 3 THEN 700 + name ELSE 300 + 100 * route + n % 30 END,
       iif(state IN (1, 4), n / 20 + 1, NULL), NULL, 0
FROM (SELECT *, CASE WHEN n = {RARE} THEN 4 WHEN route THEN
      CASE WHEN x < 60 THEN 1 WHEN x < 90 THEN 3 WHEN x < 93 THEN 2 ELSE 4 END
      ELSE CASE WHEN x < 93 THEN 1 WHEN x < 97 THEN 2 ELSE 4 END END AS state FROM plan)
ORDER BY route, state, n
"""  # noqa: S608 - our own integers
_REST = f"""
INSERT INTO reasons SELECT reason_id, route, state, CASE state WHEN 2 THEN 'this event is not among FORWARDER_EVENTS'
    WHEN 3 THEN 'nothing is linked to Product Viewed ' || (reason_id - 700)
    ELSE 'the destination refused it: field ' || reason_id || ' is invalid' END, count(*), count(*), max(settled_at_ms)
    FROM outcomes WHERE reason_id IS NOT NULL GROUP BY reason_id, route, state;
INSERT INTO attempts (at_ms, duration_ms, operation, status, outcome, reason, answer)
    SELECT :begin_ms + n, 87, 'POST /v1/batch', 200, 'delivered', '', x'4f4b' FROM plan WHERE n <= {EVENTS} / 20 + 1;
INSERT INTO books SELECT route, state, count(*) FROM outcomes GROUP BY route, state;
INSERT INTO books SELECT route, 5, count(*) FROM outcomes GROUP BY route;
INSERT INTO event_types SELECT route, type, event, count(*), min(received_at_ms), max(received_at_ms)
    FROM events GROUP BY route, type, event;
INSERT INTO audit (at_ms, who, action, detail)
    SELECT :begin_ms + n, 'page (127.0.0.1)', 'replay', 'event ' || n FROM plan WHERE n <= 5000;
INSERT INTO marks VALUES ('keys_sealed_to', {EVENTS});
"""  # noqa: S608 - our own integers
_MORE = (
    '{"library":{"name":"analytics.js","version":"3.11.14"},"locale":"de-DE","userAgent":"Mozilla/5.0 (X11; Linux '
    'x86_64) AppleWebKit/537.36","page":{"path":"/cart","title":"Cart"},"campaign":{"name":"autumn","medium":"email",'
    '"source":"newsletter"},"timezone":"Europe/Berlin"}}}'
)


def checksum(*columns: Any) -> int:
    """Return what the spool keeps beside a payload, the only column."""
    return crc32(columns[0])


def fill(folder: Path) -> None:
    """Make the spool in an empty folder."""
    connection = open_writer(folder)
    connection.pragma("synchronous", "OFF")
    connection.pragma("journal_mode", "MEMORY")
    connection.create_scalar_function("crc", checksum, 1, deterministic=True)
    begin_ms = time.time_ns() // 1_000_000 - _AGO_MS
    given = {"begin_ms": begin_ms, "more": _MORE}
    with connection:
        for statements in (_PLAN, _EVENTS, _OUTCOMES, _REST):
            connection.execute(statements, given)
    memory, segments = load_memory(connection), Segments(connection)
    limits = SpoolLimits()
    with connection:
        for _ in range(EVENTS // SEGMENT_EVENTS):
            segments.step(Transaction(connection, memory, limits, now_ms=begin_ms))
    connection.pragma("journal_mode", "WAL")
    connection.close()


@pytest.fixture(scope="session")
def million(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder whose `data` holds a million events; its 650 MB do not outlive the session."""
    folder = tmp_path_factory.mktemp("million")
    (folder / "data").mkdir(mode=0o700)
    fill(folder / "data")
    yield folder
    shutil.rmtree(folder / "data")


@pytest.fixture
async def daemon(million: Path) -> AsyncIterator[DaemonProcess]:
    """Run the daemon over the million, both routes, with vendors that are not there: it only shows."""
    settings = {
        "RUDDERSTACK_WRITE_KEY": "scale-write-key",
        "RUDDERSTACK_DATA_PLANE_URL": "http://127.0.0.1:9",
        "COURIER_WEBHOOK_SECRET": "scale-webhook-secret",
        "FORWARDER_EVENTS_KEY": "scale-events-key",
        "FORWARDER_INBOUND_KEYS": "scale-inbound-key",
        "COURIER_API_KEY": "scale-api-key",
        "COURIER_API_URL": "http://127.0.0.1:9",
    }
    running = DaemonProcess(folder=million, settings=settings)
    await running.start(ready_max_s=60)
    yield running
    await running.stop()
