"""The spool in a Postgres that any number of replicas share."""
