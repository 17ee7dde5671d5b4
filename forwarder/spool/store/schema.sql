-- Sequences are unique over both routes and never reused: AUTOINCREMENT, or a drained table would restart.
CREATE TABLE events (
    sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
    route          INTEGER NOT NULL,
    event_key      BLOB    NOT NULL,
    partition      TEXT    NOT NULL,
    received_at_ms INTEGER NOT NULL,
    source         TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    event          TEXT    NOT NULL,
    message_id     TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    size           INTEGER NOT NULL,
    checksum       INTEGER NOT NULL, -- crc32 of the payload: damage shows when it is lent
    payload        BLOB              -- last, so that the columns before it are read without it; NULL once yielded
);

-- Pending, never failed, due at once, oldest of its partition: what a cursor lends from.
CREATE TABLE ready (
    route    INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (route, sequence)
) WITHOUT ROWID;

-- Pending and never failed, but behind an older pending event of its partition.
CREATE TABLE blocked (
    route    INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (route, sequence)
) WITHOUT ROWID;

-- Pending and given back with a failure or with a time.
CREATE TABLE retries (
    route           INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    first_failed_ms INTEGER,
    not_before_ms   INTEGER NOT NULL,
    reason_id       INTEGER,
    attempt_ids     BLOB    NOT NULL, -- the last ten, 8 bytes each
    PRIMARY KEY (route, sequence)
) WITHOUT ROWID;
CREATE INDEX retries_by_reason ON retries (reason_id, sequence) WHERE reason_id IS NOT NULL;

-- The due times of those in `retries` that are the oldest of their partition.
CREATE TABLE waiting (
    route         INTEGER NOT NULL,
    is_retry      INTEGER NOT NULL, -- 0: given back without counting a failure
    not_before_ms INTEGER NOT NULL,
    sequence      INTEGER NOT NULL,
    PRIMARY KEY (route, is_retry, not_before_ms, sequence)
) WITHOUT ROWID;

-- Every pending event that has a partition, by partition.
CREATE TABLE lanes (
    lane     INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (lane, sequence)
) WITHOUT ROWID;

-- Settled events. Clustered by state, so that a listing of a state is a range of it.
CREATE TABLE outcomes (
    route         INTEGER NOT NULL,
    state         INTEGER NOT NULL,
    sequence      INTEGER NOT NULL,
    settled_at_ms INTEGER NOT NULL,
    attempts      INTEGER NOT NULL,
    reason_id     INTEGER,
    attempt_id    INTEGER,
    earlier_ids   BLOB,
    is_discarded  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (route, state, sequence)
) WITHOUT ROWID;
CREATE INDEX outcomes_by_reason ON outcomes (reason_id, is_discarded, sequence) WHERE reason_id IS NOT NULL;

-- The distinct reasons with how many events have each now (discarded ones left out).
CREATE TABLE reasons (
    reason_id  INTEGER PRIMARY KEY,
    route      INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    count      INTEGER NOT NULL,
    rows       INTEGER NOT NULL, -- discarded ones too
    last_at_ms INTEGER NOT NULL,
    UNIQUE (reason, route, state)
);

CREATE TABLE attempts (
    attempt_id  INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    operation   TEXT    NOT NULL,
    status      INTEGER,
    outcome     TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    answer      BLOB    NOT NULL
);

CREATE TABLE progress (
    sequence INTEGER PRIMARY KEY,
    data     BLOB    NOT NULL,
    replay   INTEGER NOT NULL DEFAULT 0 -- 1: asked for anew since, 2: all of it
);

-- The attempts of events that stayed lent after them, beside those in `retries` and `outcomes`.
CREATE TABLE trails (
    sequence    INTEGER PRIMARY KEY,
    attempt_ids BLOB NOT NULL -- the last ten, 8 bytes each
);

CREATE TABLE books (
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

-- The known keys that are no longer in memory, see `store/keys.py`: each bucket is a table keys_<bucket> of its own, dropped whole.
CREATE TABLE key_buckets (
    bucket    INTEGER PRIMARY KEY,
    opened_ms INTEGER NOT NULL,
    closed_ms INTEGER,           -- the last key in it is not younger than this
    keys      INTEGER NOT NULL
);

CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE occurrences (
    base_key       BLOB    NOT NULL,
    subject        BLOB,
    side           TEXT    NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_copy_ms   INTEGER NOT NULL,
    keep_until_ms  INTEGER NOT NULL,
    PRIMARY KEY (base_key)
) WITHOUT ROWID;
CREATE INDEX occurrences_by_subject ON occurrences (subject, first_sequence) WHERE subject IS NOT NULL;
CREATE INDEX occurrences_by_age ON occurrences (keep_until_ms);

-- One row per label and block of sequences: four bytes per event, searched whole. See `store/segments.py`.
CREATE TABLE segments (
    kind    INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    low_ms  INTEGER NOT NULL,
    high_ms INTEGER NOT NULL,
    prints  BLOB    NOT NULL,
    PRIMARY KEY (kind, segment)
);

CREATE TABLE remembered (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE audit (
    audit_id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms    INTEGER NOT NULL,
    who      TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    detail   TEXT    NOT NULL
);
