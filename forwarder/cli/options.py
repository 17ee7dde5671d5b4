"""Options that several commands share, and the settings they all read."""

import os
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click


def _web_address(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Return the URL; raises `click.BadParameter` for what is none."""
    if given is None:
        return None
    try:
        parts = urlsplit(given)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise click.BadParameter("it is no web address: write it like http://127.0.0.1:8081")
    return given


URL = click.option(
    "--url",
    callback=_web_address,
    metavar="URL",
    help="The operator's listener, such as http://127.0.0.1:8081. Default: FORWARDER_OPERATOR_LISTEN; "
    "when nothing answers there, the data folder or the database of the stopped daemon.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def command_settings() -> Any:
    """Return the `Settings` for a command: what only the daemon needs may be missing.

    Imported only now, as by `daemon_settings`: a shell that completes an option needs no settings.
    """
    return import_module("forwarder.settings").load(os.environ, Path.cwd(), is_for_daemon=False)


def daemon_settings() -> Any:
    """Return the `Settings` as the daemon reads them."""
    return import_module("forwarder.settings").load(os.environ, Path.cwd())
