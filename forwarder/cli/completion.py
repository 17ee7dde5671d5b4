"""`forwarder completion`: the script that lets a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

from forwarder.cli.exits import CommandFailed, ending

PROGRAM = "forwarder"
_VARIABLE = "_FORWARDER_COMPLETE"


@click.command(
    epilog=ending(
        'eval "$(forwarder completion bash)"      # in ~/.bashrc',
        'eval "$(forwarder completion zsh)"       # in ~/.zshrc',
        "forwarder completion fish > ~/.config/fish/completions/forwarder.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell."""
    made_by = get_completion_class(shell)
    if made_by is None:
        raise CommandFailed(f"{shell} is not known here")
    # The script alone: its own `source` would ask the shell for its version, which need not be installed here.
    script = made_by(ctx.find_root().command, {}, PROGRAM, _VARIABLE)
    click.echo(script.source_template % script.source_vars())
