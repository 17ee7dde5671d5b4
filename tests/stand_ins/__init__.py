"""What stands in for a part of the world in tests: the vendors, a memory spool, the daemon as a process.

Import it as `stand_ins`: pytest and mypy have `tests/` on their path, never the checkout itself, so that
what is tested is what the wheel installed.
"""
