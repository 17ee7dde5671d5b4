"""Moving a spool from one engine to the other, while nothing runs on either."""
