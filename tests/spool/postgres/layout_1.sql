-- Layout 1. A change here is a further number in `layout.py`, forward only.
-- What every event passes through is only inserted into, never updated or deleted: old transactions elsewhere keep nothing
-- alive here that a statement would have to step over. Rows leave by the block, dropped whole.

CREATE SCHEMA forwarder;

CREATE SEQUENCE forwarder.event_sequence;

-- Blocks of sequences: one partition each of `events` and `outcomes`, made ahead, see `layout.py`.
CREATE TABLE forwarder.blocks (
    first bigint PRIMARY KEY,
    past  bigint NOT NULL,    -- the first sequence behind it
    name  text   NOT NULL     -- its tables are events_<name> and outcomes_<name>
);

CREATE TABLE forwarder.events (
    sequence       bigint   NOT NULL,
    route          smallint NOT NULL,
    partition_no   smallint NOT NULL, -- 0 to 255: who may lease it, see `partitions`
    order_no       bigint   NOT NULL, -- number of its partition key; 0: no order
    received_at_ms bigint   NOT NULL,
    event_key      bytea    NOT NULL,
    partition_key  text     NOT NULL,
    source         text     NOT NULL,
    type           text     NOT NULL,
    event          text     NOT NULL,
    message_id     text     NOT NULL,
    user_id        text     NOT NULL,
    size           integer  NOT NULL,
    payload        bytea,             -- NULL once evicted or erased
    trace          text,              -- the traceparent; NULL where it was not traced
    PRIMARY KEY (sequence)
) PARTITION BY RANGE (sequence);
CREATE INDEX events_by_order ON forwarder.events (order_no, sequence) WHERE order_no <> 0;

-- Settled events, one narrow row each. What has neither this nor a row in `work` is pending and was never given back.
CREATE TABLE forwarder.outcomes (
    sequence      bigint   NOT NULL,
    settled_at_ms bigint   NOT NULL,
    attempt_id    bigint,             -- the exchange that settled it; those before are in `attempt_lists`
    reason_id     integer,
    attempts      integer  NOT NULL,
    state         smallint NOT NULL,
    status        smallint,           -- HTTP status of the last answer; 0: none came, NULL: nothing was sent
    is_discarded  boolean  NOT NULL,
    PRIMARY KEY (sequence)
) PARTITION BY RANGE (sequence);
-- Every state but `delivered` has a reason, if only an empty one.
CREATE INDEX outcomes_by_reason ON forwarder.outcomes (reason_id, is_discarded, sequence) WHERE reason_id IS NOT NULL;
CREATE INDEX outcomes_troubled ON forwarder.outcomes (sequence) WHERE attempts > 1 OR status NOT BETWEEN 200 AND 299;

-- One row per commit and route: which events it brought. Who leases reads what became visible since its last look.
CREATE TABLE forwarder.arrivals (
    xid        bigint     NOT NULL, -- of the transaction that wrote it, with its epoch
    route      smallint   NOT NULL,
    writer     integer    NOT NULL, -- its slot
    is_moved   boolean    NOT NULL, -- not new: they became pending again
    partitions smallint[] NOT NULL,
    sequences  bigint[]   NOT NULL  -- growing
);
CREATE INDEX arrivals_by_xid ON forwarder.arrivals (xid, route);

-- Known keys, by time: one partition per span, dropped whole. See `key_spans.py`.
CREATE TABLE forwarder.known_keys (
    span      integer NOT NULL,
    known_key bytea   NOT NULL, -- the event's key and its route's code
    PRIMARY KEY (known_key, span)
) PARTITION BY LIST (span);

-- Pending events that are told of one by one: given back with a failure or a time, or requeued.
CREATE TABLE forwarder.work (
    sequence        bigint   PRIMARY KEY,
    order_no        bigint   NOT NULL,
    not_before_ms   bigint   NOT NULL,
    first_failed_ms bigint,
    replayed_ms     bigint,
    attempts        integer  NOT NULL,
    reason_id       integer,
    route           smallint NOT NULL,
    partition_no    smallint NOT NULL,
    kind            smallint NOT NULL, -- 0: as if never leased, 1: with a failure or a time, 2: a replay beside what arrives
    status          smallint,
    is_head         boolean  NOT NULL  -- the oldest pending event of its order, in line or beside it; or of none
);
CREATE INDEX work_due ON forwarder.work (route, kind, not_before_ms, sequence) WHERE is_head;
CREATE INDEX work_by_order ON forwarder.work (order_no, sequence) WHERE order_no <> 0;
CREATE INDEX work_by_age ON forwarder.work (route, replayed_ms, sequence);

CREATE TABLE forwarder.progress (
    sequence bigint   PRIMARY KEY,
    data     bytea    NOT NULL,
    replay   smallint NOT NULL -- 1: asked for anew since, 2: all of it
);

CREATE TABLE forwarder.attempts (
    attempt_id  bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms       bigint  NOT NULL,
    duration_ms integer NOT NULL,
    status      integer,
    operation   text    NOT NULL,
    outcome     text    NOT NULL,
    reason      text    NOT NULL,
    mapping     text    NOT NULL,
    answer      bytea   NOT NULL
);
CREATE TABLE forwarder.attempt_lists (
    sequence    bigint   PRIMARY KEY,
    attempt_ids bigint[] NOT NULL -- the last ten
);

CREATE TABLE forwarder.reasons (
    reason_id integer  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    route     smallint NOT NULL,
    state     smallint NOT NULL,
    reason    text     NOT NULL,
    UNIQUE (reason, route, state)
);
-- How many settled events have a reason and are not discarded: a row per commit and reason, summed up by housekeeping.
CREATE TABLE forwarder.reason_counts (reason_id integer NOT NULL, count bigint NOT NULL);
CREATE INDEX reason_counts_by_reason ON forwarder.reason_counts (reason_id);

-- Whoever writes has a slot, a new one for each connection; its last row is its whole account since it began. The sum of
-- every slot's last row is the totals, exact in any one snapshot.
CREATE SEQUENCE forwarder.slot_sequence AS integer;
CREATE TABLE forwarder.totals (
    slot    integer  NOT NULL,
    number  bigint   NOT NULL, -- of the slot's commit
    amounts bigint[] NOT NULL, -- by route, then by account
    PRIMARY KEY (slot, number)
);

CREATE TABLE forwarder.event_types (
    route       smallint NOT NULL,
    type        text     NOT NULL,
    event       text     NOT NULL,
    first_at_ms bigint   NOT NULL,
    last_at_ms  bigint   NOT NULL,
    count       bigint   NOT NULL
); -- a row per commit and type, summed up by housekeeping
CREATE INDEX event_types_by_name ON forwarder.event_types (route, type, event);

-- Events that carry neither id nor time, see `spool/recurrence.py`.
CREATE TABLE forwarder.occurrences (
    base_key       bytea  PRIMARY KEY,
    subject        bytea,
    side           text   NOT NULL,
    first_sequence bigint NOT NULL, -- 0: its first arrival is being written
    last_copy_ms   bigint NOT NULL,
    keep_until_ms  bigint NOT NULL
);
CREATE INDEX occurrences_by_end ON forwarder.occurrences (keep_until_ms);
CREATE INDEX occurrences_by_subject ON forwarder.occurrences (subject, first_sequence) WHERE subject IS NOT NULL;

-- Replicas live while `until` is ahead of the database's clock. What a partition's row names is who may lease and settle
-- its events: every settlement holds that row, so that nobody takes the partition over meanwhile.
CREATE TABLE forwarder.replicas (
    replica  uuid        PRIMARY KEY,
    until    timestamptz NOT NULL,
    host     text        NOT NULL
);
CREATE TABLE forwarder.partitions (
    no    smallint PRIMARY KEY,
    owner uuid,
    epoch bigint   NOT NULL
);
INSERT INTO forwarder.partitions SELECT no, NULL, 0 FROM generate_series(0, 255) AS no;
-- Apart from `partitions`, whose rows settlements hold.
CREATE TABLE forwarder.floors (
    no     smallint PRIMARY KEY,
    floors bigint[] NOT NULL -- by route: up to there nothing is pending that was never given back
);
INSERT INTO forwarder.floors SELECT no, '{0,0}' FROM forwarder.partitions;

-- Pending events that the owner of their partition is asked to erase.
CREATE TABLE forwarder.erasures (sequence bigint PRIMARY KEY, partition_no smallint NOT NULL);

CREATE TABLE forwarder.kept_values (key text PRIMARY KEY, value bytea NOT NULL);

CREATE TABLE forwarder.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms    bigint NOT NULL,
    who      text   NOT NULL,
    action   text   NOT NULL,
    detail   text   NOT NULL,
    outcome  text   NOT NULL,
    count    bigint
);

CREATE TABLE forwarder.layout (number integer PRIMARY KEY, made_at timestamptz NOT NULL DEFAULT now());
INSERT INTO forwarder.layout VALUES (1);
