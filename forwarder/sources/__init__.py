"""Subscriptions to the user's own bus: the port, the one worker on it, and a module for each kind of bus."""
