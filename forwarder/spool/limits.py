"""The ceilings of a spool, one frozen value given at the start."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLimits:
    """How much a spool may hold and for how long. All positive.

    `is_shared` True means that both routes run: then neither's unsettled bytes take more than three
    quarters of the cap, so that an outage of one destination does not turn the other's senders away.
    """

    bytes_max: int = 4_294_967_296  # used pages of the database; in memory: the bytes held
    retention_s: int = 604_800  # settled events and keys; at least 26 h in a real set-up
    is_shared: bool = False
    cache_bytes_max: int = 8_388_608  # of payloads just committed, per route, leased without a read
    reserve_bytes: int = 4_194_304  # the file that is given up first when the disk is full
    value_bytes_max: int = 4_194_304
    event_types_max: int = 10_000  # distinct rows per route
    answer_bytes_max: int = 2_048  # of an attempt's answer
    attempts_max: int = 10  # kept per event
    wal_pages_max: int = 2_000  # then the log is folded back into the database
