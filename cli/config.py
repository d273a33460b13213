# SPDX-License-Identifier: Apache-2.0
"""config: shows the options that a command would run with, and where each is from."""

from __future__ import annotations

import click

from meadow.cli import configuration
from meadow.cli.output import emit_json, json_option, out
from meadow.machine.errors import UsageError


@click.command("config", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@json_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [OPTIONS]...]")
@click.pass_context
def config_command(ctx: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Print the options of COMMAND as they would be in force: of the command line, of meadow.toml, or the defaults.

    What is printed is a section of meadow.toml, to be kept and used again.  Without COMMAND the whole file is checked.

    \b
    Examples:
      meadowc config compile models/smollm2 --board kv260 --quantize int8 > meadow.toml
      meadowc config
    """
    group = ctx.parent
    assert group is not None and isinstance(group.command, click.Group)
    file = group.meta.get(configuration.FILE)
    if not words:
        if file is None:
            raise click.UsageError(f"there is no {configuration.NAME} here, and no command was named")
        sections = _check(group, group.command)
        if as_json:
            emit_json({"file": str(file), "sections": sections})
        else:
            out.print(f"{file}: {', '.join(f'[{name}]' for name in sections) or 'nothing'}; every key is an option")
        return
    command, found = _context(group, list(words))
    if as_json:
        emit_json({"command": command, "options": configuration.given(found, command)})
    else:
        out.print(configuration.resolved(found, command))


def _context(ctx: click.Context, words: list[str]) -> tuple[str, click.Context]:
    """The command that `words` name, with its options taken in and nothing run."""
    titles: list[str] = []
    while isinstance(ctx.command, click.Group):
        name, command, words = ctx.command.resolve_command(ctx, words)
        assert command is not None and name is not None
        titles.append(name)
        if isinstance(command, click.Group) and not words:
            raise click.UsageError(f"{' '.join(titles)} is a group; name one of its commands")
        if isinstance(command, click.Group):
            ctx = click.Context(command, parent=ctx, info_name=name)
        else:
            ctx = command.make_context(name, words, parent=ctx)
    return ".".join(titles), ctx


def _check(group: click.Context, commands: click.Group) -> list[str]:
    """The names of the file's sections.  Raises UsageError with everything that is wrong in any."""
    found, problems = [], []
    for name, section in list((group.default_map or {}).items()):
        below = list(section) if name == "bench" and isinstance(section, dict) else [""]
        for part in below:
            try:
                _context_of(group, commands, [name, part] if part else [name])
                found.append(f"{name}.{part}" if part else name)
            except (click.UsageError, UsageError) as wrong:
                problems.append(str(wrong.message if isinstance(wrong, click.UsageError) else wrong))
    if problems:
        raise UsageError("; ".join(dict.fromkeys(problems)))
    return found


def _context_of(ctx: click.Context, command: click.Command | None, words: list[str]) -> None:
    """Look a command up, which takes in its section and refuses what is wrong in it."""
    for word in words:
        assert isinstance(command, click.Group)
        name, command, _ = command.resolve_command(ctx, [word])
        assert command is not None
        ctx = click.Context(command, parent=ctx, info_name=name)
