-- The layout. Its number is in `database.py`; a change here is a new number and a migration there.

-- The event log, one table per route: appended to at the end, dropped from the beginning. Sequences are unique over both
-- and never reused (the last one given is among the totals).
CREATE TABLE events_outbound (
    sequence       INTEGER PRIMARY KEY,
    event_key      BLOB    NOT NULL,
    partition      TEXT    NOT NULL,
    received_at_ms INTEGER NOT NULL,
    source         TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    event          TEXT    NOT NULL,
    message_id     TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    size           INTEGER NOT NULL,
    checksum       INTEGER NOT NULL, -- crc32 of the payload: damage shows when it is read
    payload        BLOB,             -- behind the others, so that they are read without it; NULL once evicted
    trace          TEXT              -- the traceparent; NULL where it was not traced. Read with the payload only
);
CREATE TABLE events_inbound (
    sequence       INTEGER PRIMARY KEY,
    event_key      BLOB    NOT NULL,
    partition      TEXT    NOT NULL,
    received_at_ms INTEGER NOT NULL,
    source         TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    event          TEXT    NOT NULL,
    message_id     TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    size           INTEGER NOT NULL,
    checksum       INTEGER NOT NULL,
    payload        BLOB,
    trace          TEXT
);

-- Settled events, as runs: every event of the route from `first` to `last` was settled so. Runs of a route never overlap.
CREATE TABLE settled (
    route         INTEGER NOT NULL,
    last          INTEGER NOT NULL,
    first         INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    settled_at_ms INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    reason_id     INTEGER,
    attempt_id    INTEGER,          -- the exchange that settled them; those before are in `attempt_lists`
    is_discarded  INTEGER NOT NULL,
    status        INTEGER,          -- HTTP status of the last answer; 0: none came, NULL: nothing was sent
    PRIMARY KEY (route, last)
) WITHOUT ROWID;
CREATE INDEX settled_by_state ON settled (route, state, last);
CREATE INDEX settled_by_age ON settled (settled_at_ms);
-- What did not go through at once: few, so that a search by status or number of attempts has little to look at.
CREATE INDEX settled_troubled ON settled (route, last, attempts, status)
    WHERE attempts > 1 OR status NOT BETWEEN 200 AND 299;
CREATE INDEX settled_by_reason ON settled (reason_id, is_discarded, last) WHERE reason_id IS NOT NULL;

-- Pending events that are told of one by one: given back with a failure or a time, or requeued. Whatever is in the event
-- log, in no run and not here is pending and never left the queue.
CREATE TABLE given_back (
    sequence        INTEGER PRIMARY KEY,
    route           INTEGER NOT NULL,
    is_head         INTEGER NOT NULL, -- the oldest pending event of its partition, or of none
    kind            INTEGER NOT NULL, -- 0: as if never leased, 1: with a failure or a time, 2: a replay beside what arrives
    not_before_ms   INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    first_failed_ms INTEGER,
    reason_id       INTEGER,
    status          INTEGER,          -- as in `settled`
    replayed_ms     INTEGER           -- when it was requeued, if it was
);
CREATE INDEX given_back_due ON given_back (route, kind, not_before_ms, sequence) WHERE is_head;
CREATE INDEX given_back_by_age ON given_back (route, replayed_ms, sequence);
CREATE INDEX given_back_by_reason ON given_back (reason_id, sequence) WHERE reason_id IS NOT NULL;

-- Every pending event that has a partition, by the partition's number; of replays beside what arrives it is negative.
CREATE TABLE partitions (
    number   INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (number, sequence)
) WITHOUT ROWID;

-- What is noted of an event beside its row.
CREATE TABLE progress (
    sequence INTEGER PRIMARY KEY,
    data     BLOB    NOT NULL,
    replay   INTEGER NOT NULL -- 1: asked for anew since, 2: all of it
);

CREATE TABLE attempts (
    attempt_id  INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    operation   TEXT    NOT NULL,
    status      INTEGER,
    outcome     TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    answer      BLOB    NOT NULL,
    mapping     TEXT    NOT NULL DEFAULT '' -- the mark of the mapping that made what was sent
);
CREATE TABLE attempt_lists (
    sequence    INTEGER PRIMARY KEY,
    attempt_ids BLOB NOT NULL -- the last ten, 8 bytes each
);

-- The distinct reasons with how many events have each now (discarded ones left out).
CREATE TABLE reasons (
    reason_id  INTEGER PRIMARY KEY,
    route      INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    count      INTEGER NOT NULL,
    held       INTEGER NOT NULL, -- discarded ones too
    UNIQUE (reason, route, state)
);

CREATE TABLE totals (
    route   INTEGER NOT NULL,
    account INTEGER NOT NULL,
    amount  INTEGER NOT NULL,
    PRIMARY KEY (route, account)
) WITHOUT ROWID;

CREATE TABLE event_types (
    route       INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    event       TEXT    NOT NULL,
    count       INTEGER NOT NULL,
    first_at_ms INTEGER NOT NULL,
    last_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (route, type, event)
) WITHOUT ROWID;

-- The known keys that are no longer in memory, see `known_keys.py`: each bucket is a table keys_<bucket>, dropped whole.
CREATE TABLE key_buckets (
    bucket    INTEGER PRIMARY KEY,
    opened_ms INTEGER NOT NULL,
    newest_ms INTEGER NOT NULL, -- no key in it was learnt after this
    keys      INTEGER NOT NULL
);

CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

-- Events that carry neither id nor time, see `spool/recurrence.py`.
CREATE TABLE occurrences (
    base_key       BLOB    PRIMARY KEY,
    subject        BLOB,
    side           TEXT    NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_copy_ms   INTEGER NOT NULL,
    keep_until_ms  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX occurrences_by_subject ON occurrences (subject, first_sequence) WHERE subject IS NOT NULL;
CREATE INDEX occurrences_by_age ON occurrences (keep_until_ms);

-- One row per label and block of sequences: four bytes per event, searched whole. See `label_index.py`.
CREATE TABLE label_index (
    kind    INTEGER NOT NULL,
    block   INTEGER NOT NULL,
    low_ms  INTEGER NOT NULL,
    high_ms INTEGER NOT NULL,
    hashes  BLOB    NOT NULL,
    PRIMARY KEY (kind, block)
);

CREATE TABLE kept_values (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE audit (
    audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms    INTEGER NOT NULL,
    who      TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    detail   TEXT    NOT NULL,
    count    INTEGER,
    outcome  TEXT    NOT NULL DEFAULT ''
);
