"""`forwarder completion`: the script that lets a shell complete commands and options."""

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from forwarder.cli.exits import ending

PROGRAM = "forwarder"
_VARIABLE = "_FORWARDER_COMPLETE"
_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(
    epilog=ending(
        'eval "$(forwarder completion bash)"      # in ~/.bashrc',
        'eval "$(forwarder completion zsh)"       # in ~/.zshrc',
        "forwarder completion fish > ~/.config/fish/completions/forwarder.fish",
    )
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell."""
    # The script alone: its own `source` would ask the shell for its version, which need not be installed here.
    script = _SHELLS[shell](ctx.find_root().command, {}, PROGRAM, _VARIABLE)
    click.echo(script.source_template % script.source_vars())
