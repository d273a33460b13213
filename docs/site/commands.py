# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: the reference of the command line is what each command's --help prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARK, "\n".join(pages())) if MARK in markdown else markdown


def pages() -> Iterator[str]:
    from meadow.cli.main import cli

    yield from _page(cli, click.Context(cli, info_name="meadowc", **{**cli.context_settings, "max_content_width": 84, "terminal_width": 84}), 2)


def _page(command: click.Command, ctx: click.Context, level: int) -> Iterator[str]:
    """The help of a command, then of those below it."""
    yield f"{'#' * level} {ctx.command_path}\n\n```text\n{command.get_help(ctx)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from _page(below, click.Context(below, parent=ctx, info_name=name), min(level + 1, 4))
