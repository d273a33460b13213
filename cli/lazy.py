# SPDX-License-Identifier: Apache-2.0
"""A command group that imports a command's module only when it is used, gives it -q and -v, and takes in its section of meadow.toml.
Knows no command."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from meadow.cli import configuration
from meadow.cli.output import Volume, err

SAYS = (
    click.Option(["-q", "--quiet"], is_flag=True, help="Say the result and errors alone."),
    click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        help="Say what each stage took, the options in force, where an error is from.",
    ),
)


def spoken(callback: Callable[..., Any]) -> Callable[..., Any]:
    """`callback` after -q and -v are taken in, and after what meadow.toml has set is told."""

    @functools.wraps(callback)
    def run(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> Any:
        if quiet and verbose:
            raise click.UsageError("-q and -v exclude each other; drop one")
        Volume.set(quiet, verbose)
        ctx = click.get_current_context()
        file, title = ctx.meta.get(configuration.FILE), ctx.command_path.partition(" ")[2].replace(" ", ".")
        set_ = configuration.given(ctx, title, ParameterSource.DEFAULT_MAP)
        if set_ and not ctx.params.get("as_json"):
            err.print(f"{file}: {', '.join(f'{k} = {configuration.as_toml(v)}' for k, v in set_.items())}", style="dim")
        if verbose:
            err.print(configuration.resolved(ctx, title), style="dim")
        return callback(*arguments, **options)

    return run


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
        if not isinstance(command, click.Group) and SAYS[0] not in command.params:
            assert command.callback is not None
            command.params.extend(SAYS)
            command.callback = spoken(command.callback)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; a name that is nearly right is named."""
        if args and args[0] not in self.commands_of and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands_of, 3, 0.6)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(self.commands_of)}"
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name is not None:
            self._configure(ctx, name, command)
        return name, command, rest

    def _configure(self, ctx: click.Context, name: str, command: click.Command) -> None:
        """Turn the command's section of the configuration into its defaults.  Raises UsageError for what it has no option for."""
        sections = ctx.default_map or {}
        if name not in sections:
            return
        file, section = ctx.meta[configuration.FILE], sections[name]
        if isinstance(command, Lazy):
            if not isinstance(section, dict):
                raise click.UsageError(f"{file}: {name} is a section, [{name}]")
            configuration.check_sections(file, section, list(command.commands_of), f"{name}.")
            return
        title = f"{ctx.command_path.partition(' ')[2]}.{name}".lstrip(".")
        ctx.default_map = {**sections, name: configuration.defaults(file, command, section, title)}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.commands_of.items()])
