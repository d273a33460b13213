# SPDX-License-Identifier: Apache-2.0
"""meadow.toml: options that hold unless the command line says otherwise.  A section for each command, a key for each of its options."""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from meadow.machine.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "meadow.toml"
LIMIT = 1 << 20
"""Bytes of a configuration file at most."""
NEVER = ("json", "trust", "help", "quiet", "verbose")
"""What the person at the command line says each time: a folder from anywhere may have a meadow.toml in it."""
FILE = "meadow.configuration"
"""Key of the context's `meta` under which the file's path stands."""


def read(file: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The configuration's file and sections: of `file`, or of meadow.toml in the working directory, if there is one.

    Raises UsageError.
    """
    found = file or Path(NAME)
    if file is None and not found.exists():
        return None, {}
    try:
        if found.exists() and not found.is_file() and str(found) != os.devnull:
            raise UsageError(f"{found} is no regular file")
        with found.open("rb") as stream:
            data = stream.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise UsageError(f"{found} has more than {LIMIT:,} bytes, which no configuration has")
        return found, tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise UsageError(f"{found} is not TOML: {wrong}") from None
    except OSError as wrong:
        raise UsageError(f"{found}: {wrong.strerror}") from None


def keys(command: click.Command) -> dict[str, click.Parameter]:
    """What a section may set: options by their long names without dashes, arguments by theirs."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        longest = max((o for o in parameter.opts), key=len)
        name = longest.removeprefix("--") if isinstance(parameter, click.Option) else str(parameter.name)
        if name not in NEVER:
            found[name] = parameter
    return found


def defaults(file: Path, command: click.Command, section: Any, title: str) -> dict[str, Any]:
    """Values of a section by the command's own parameter names.  Raises UsageError with all that is wrong."""
    if not isinstance(section, dict):
        raise UsageError(f"{file}: {title} is a section, [{title}]")
    known, found, problems = keys(command), {}, []
    for key, value in section.items():
        parameter = known.get(key)
        if parameter is None:
            near = difflib.get_close_matches(key, known, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            why = " is said on the command line alone" if key in NEVER else f" is no option of {title}{hint}"
            problems.append(f"[{title}] {key}{why}")
            continue
        if getattr(parameter, "multiple", False) or parameter.nargs != 1:
            if isinstance(value, dict):  # [compile.set] context = 1024
                value = [f"{k}={v}" for k, v in value.items()]
            if not isinstance(value, list):
                problems.append(f"[{title}] {key} is a list, such as {key} = [{json.dumps(value, default=str)}]")
                continue
        elif isinstance(value, (list, dict)):
            problems.append(f"[{title}] {key} takes one value, not {json.dumps(value, default=str)}")
            continue
        found[str(parameter.name)] = [str(v) for v in value] if isinstance(value, list) else value
    if problems:
        raise UsageError(f"{file}: {'; '.join(problems)}")
    return found


def check_sections(file: Path, sections: dict[str, Any], known: list[str]) -> None:
    """Raise UsageError for a section that is no command's."""
    wrong = []
    for name in sections:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            wrong.append(f"[{name}] is no command" + (f"; did you mean {near[0]}?" if near else ""))
    if wrong:
        raise UsageError(f"{file}: {'; '.join(wrong)}")


def given(ctx: click.Context, *sources: ParameterSource) -> dict[str, Any]:
    """The options in force of a command that came from `sources`, by their names in a section."""
    found = {}
    for name, parameter in keys(ctx.command).items():
        if not sources or ctx.get_parameter_source(str(parameter.name)) in sources:
            found[name] = ctx.params.get(str(parameter.name))
    return found


def as_toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return json.dumps(str(value))


ORIGINS = {
    ParameterSource.COMMANDLINE: "the command line",
    ParameterSource.DEFAULT_MAP: "the file",
    ParameterSource.ENVIRONMENT: "the environment",
    ParameterSource.DEFAULT: "the default",
    ParameterSource.PROMPT: "the prompt",
}


def resolved(ctx: click.Context, title: str) -> str:
    """Every option of a command as a section that can be used again, with where each is from."""
    lines = [f"[{title}]"]
    for name, parameter in keys(ctx.command).items():
        value = ctx.params.get(str(parameter.name))
        source = ctx.get_parameter_source(str(parameter.name))
        origin = ORIGINS[source] if source is not None else "the default"
        secret = "key" in name and value
        key = f"# {name} is not set" if value is None or secret else f"{name} = {as_toml(value)}"
        lines.append(f"{key:<40}  # {'kept to itself' if secret else origin}" if value is not None else key)
    return "\n".join(lines)
