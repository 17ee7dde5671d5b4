"""What people read of the spool on Postgres, on a connection of its own."""
