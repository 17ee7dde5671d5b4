"""What people read of the spool, on a connection and in a thread of its own."""
