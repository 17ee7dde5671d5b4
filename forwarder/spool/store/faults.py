"""What SQLite's errors mean to the writer, and what people are told of them."""

import apsw

from forwarder.errors import SpoolFull

RETRY_AFTER_S = 10
# Busy: somebody else's tool holds the database; read-only: the disk was remounted. Both may pass.
DISK_ERRORS = (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.BusyError, apsw.ReadOnlyError)
DAMAGE_ERRORS = (apsw.CorruptError, apsw.NotADBError)


def words(error: Exception) -> str:
    """Say why nothing can be written, with the remedy where it is not room on the disk."""
    if isinstance(error, apsw.FullError):
        return "the disk is full"
    if isinstance(error, DISK_ERRORS):
        return "the disk cannot be written"
    if isinstance(error, DAMAGE_ERRORS):
        return (
            "the database is damaged: stop the daemon, keep a copy of its folder, then restore it from a backup "
            "or recover it with `sqlite3 spool.db .recover`"
        )
    return f"a settlement cannot be written ({type(error).__name__}): please report it; a restart may help"


def cannot_write(error: apsw.Error) -> SpoolFull:
    """Turn away what a later attempt may bring in."""
    return SpoolFull(f"the spool cannot write ({type(error).__name__})", retry_after_s=RETRY_AFTER_S)
