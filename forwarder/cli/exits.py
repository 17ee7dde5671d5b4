"""How a command ends: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration (EX_CONFIG of sysexits.h)."""

import errno
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from forwarder.errors import ForwarderError, RulesInvalid, SettingsInvalid, SpoolTooNew

DONE = 0
FAILED = 1
CONFIGURATION = 78

# What cannot be taken back is never what was meant: nobody shall be led to it by a slip.
_BOLD = frozenset({"replay", "discard", "forget", "remove", "--yes", "--everything"})
_EXIT_CODES = "\b\nExit codes:\n  0   done\n  1   failed\n  2   wrong usage\n  78  wrong configuration"


def ending(*examples: str) -> str:
    """Return what the help of a command ends with: examples, one a line, and the exit codes."""
    lines = "".join(f"\n  {example}" for example in examples)
    return f"\b\nExamples:{lines}\n\n{_EXIT_CODES}"


class CommandFailed(click.ClickException):
    """The command could not do it; the text says why and what to do."""

    exit_code = FAILED

    def show(self, file: Any = None) -> None:
        """Print the text alone, without a traceback."""
        click.echo(self.format_message(), file=file, err=True)


class ConfigurationWrong(CommandFailed):
    """The settings, or a file they name, are wrong."""

    exit_code = CONFIGURATION


class Verbs(click.Group):
    """A group of commands in the order in which they are listed, whose errors are plain text.

    `verbs` says where each command is ("module:name"). A command is imported when it is asked for, so that
    none pays at its start for what the others need.
    """

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the documentation, not of the alphabet."""
        del ctx
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        del ctx
        if cmd_name not in self._verbs:
            return None
        module, _, name = self._verbs[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin so, without importing one of them; options as click does."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name) for name in self._verbs if name.startswith(incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of one that does not exist say what may have been meant, but never what destroys."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            harmless = [name for name in self._verbs if name not in _BOLD]
            if near := get_close_matches(args[0], harmless, n=1):
                raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None
            raise click.UsageError(error.message, ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our errors become its exit code and one plain text."""
        try:
            return super().invoke(ctx)
        except (SettingsInvalid, RulesInvalid, SpoolTooNew) as error:
            raise ConfigurationWrong(str(error)) from None
        except click.UsageError as error:
            if not (near := getattr(error, "possibilities", None)):
                raise
            near = [name for name in near if name not in _BOLD]
            did_you_mean = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"{error.message}{did_you_mean}", error.ctx) from None
        except ForwarderError as error:
            raise CommandFailed(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough; click ends quietly
            raise CommandFailed(f"the system refused: {error.strerror or error}") from None
