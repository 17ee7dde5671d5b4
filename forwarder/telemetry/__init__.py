"""Telling people what happens: logs and metrics, one method per fact."""
