"""`python -m forwarder`, and the installed command."""

from forwarder.cli.command import cli


def main() -> None:
    """Run the command line; ends the process."""
    cli(prog_name="forwarder")


if __name__ == "__main__":
    main()
