"""`python -m forwarder`, and the installed command."""

import sys

from forwarder import startup

startup.begin(sys.argv[1:])

from forwarder.cli.command import cli  # noqa: E402  loading it takes a while, in which signals must not be lost


def main() -> None:
    """Run the command line; ends the process."""
    cli(prog_name="forwarder")


if __name__ == "__main__":
    main()
