# SPDX-License-Identifier: Apache-2.0
"""A command group that imports a command's module only when the command is used.  Knows no command."""

from __future__ import annotations

import difflib
import importlib

import click


class Lazy(click.Group):
    """`commands_of` has for each command its module and one sentence; the module has NAME_command."""

    commands_of: dict[str, tuple[str, str]] = {}  # noqa: RUF012 - a subclass replaces it

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_of:
            return None
        module = importlib.import_module(self.commands_of[cmd_name][0])
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; a name that is nearly right is named."""
        if args and args[0] not in self.commands_of and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands_of, 3, 0.6)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(self.commands_of)}"
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.commands_of.items()])
