"""The spool on SQLite, in one folder of one process."""

from forwarder.spool.sqlite.spool import SqliteSpool

__all__ = ["SqliteSpool"]
