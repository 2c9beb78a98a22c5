"""A group of commands whose modules are imported when they are used: help needs no torch."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A click group.

    Args:
        lazy_commands: by name, in the order of the help: the command as ``"module:attribute"``,
            and its line in the help.
    """

    def __init__(
        self, *args: Any, lazy_commands: Mapping[str, tuple[str, str]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_commands = lazy_commands

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.lazy_commands)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command of that name."""
        if name not in self.lazy_commands:
            return None
        module, attribute = self.lazy_commands[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        lines = [(name, summary) for name, (_, summary) in self.lazy_commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(lines)
