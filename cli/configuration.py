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
LIMIT, LONGEST = 64 << 10, 4 << 10
"""Bytes of a configuration file, and characters of one of its lines, at most: keys of thousands of dots take minutes to read."""
NEVER = {
    "*": ("json", "trust", "help", "quiet", "verbose"),
    "cache": ("clear",),
    "run": ("record",),
    "serve": ("host", "allow-host", "api-key"),
}
"""What the person at the command line says each time, by command: a folder from anywhere may have a meadow.toml in it.  What trusts, deletes,
writes anywhere, or opens a port to others is not in it, nor is a secret."""
FILE = "meadow.configuration"
"""Key of the context's `meta` under which the file's path stands."""


def read(file: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The configuration's file and sections: of `file`, or of meadow.toml in the working directory, if there is one.

    Raises UsageError.
    """
    found = file or Path(NAME)
    if file is None and not os.path.lexists(found):
        return None, {}
    try:
        if found.exists() and not found.is_file() and str(found) != os.devnull:
            raise UsageError(f"{found} is no regular file")
        with found.open("rb") as stream:
            data = stream.read(LIMIT + 1)
        text = data.decode()
        if len(data) > LIMIT or any(len(line) > LONGEST for line in text.splitlines()):
            raise UsageError(
                f"{found} has more than {LIMIT >> 10} kB, or a line of more than {LONGEST} characters; no configuration has"
            )
        return found, tomllib.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise UsageError(f"{found} is not TOML: {str(wrong)[:200]}") from None
    except OSError as wrong:
        raise UsageError(f"{found}: {wrong.strerror}") from None


def never(title: str) -> tuple[str, ...]:
    """What a section may not set."""
    return (*NEVER["*"], *NEVER.get(title, ()))


def keys(command: click.Command, title: str) -> dict[str, click.Parameter]:
    """What a section may set: options by their long names without dashes, arguments by theirs."""
    found: dict[str, click.Parameter] = {}
    for parameter in command.params:
        longest = max((o for o in parameter.opts), key=len)
        name = longest.removeprefix("--") if isinstance(parameter, click.Option) else str(parameter.name)
        if name not in never(title):
            found[name] = parameter
    return found


def defaults(file: Path, command: click.Command, section: Any, title: str) -> dict[str, Any]:
    """Values of a section by the command's own parameter names.  Raises UsageError with all that is wrong."""
    if not isinstance(section, dict):
        raise UsageError(f"{file}: {title} is a section, [{title}]")
    known, found, problems = keys(command, title), {}, []
    for key, value in section.items():
        parameter = known.get(key)
        if parameter is None:
            near = difflib.get_close_matches(key, known, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            why = " is said on the command line alone" if key in never(title) else f" is no option of {title}{hint}"
            problems.append(f"[{title}] {key!r}{why}")
            continue
        try:
            found[str(parameter.name)] = _value(command, parameter, value)
        except (ValueError, click.ClickException) as wrong:
            words = wrong.message if isinstance(wrong, click.ClickException) else str(wrong)
            problems.append(f"[{title}] {key} = {as_toml(value)[:80]}: {words}")
    if problems:
        raise UsageError(f"{file}: {'; '.join(problems)}")
    return found


def _value(command: click.Command, parameter: click.Parameter, value: Any) -> Any:
    """A value as the command line would give it.  Raises ValueError or click's own error for what it would refuse."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise ValueError("true or false is expected")
        return value
    if getattr(parameter, "multiple", False) or parameter.nargs != 1:
        if isinstance(value, dict):  # [compile.set] context = 1024
            value = [f"{k}={_text(v)}" for k, v in value.items()]
        if not isinstance(value, list):
            raise ValueError("a list is expected")
        return [_checked(command, parameter, _text(v)) for v in value]
    return _checked(command, parameter, _text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("a text or a number is expected")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        raise ValueError("numbers of up to 64 bits are possible")
    return str(value)


def _checked(command: click.Command, parameter: click.Parameter, text: str) -> str:
    """`text`, which the parameter's type takes."""
    with click.Context(command) as ctx:
        parameter.type(text, parameter, ctx)
    return text


def check_sections(file: Path, sections: dict[str, Any], known: list[str], above: str = "") -> None:
    """Raise UsageError for sections that are no command's."""
    wrong = []
    for name in sections:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            wrong.append(f"[{above}{name}] is no command" + (f"; did you mean {near[0]}?" if near else ""))
    if wrong:
        raise UsageError(f"{file}: {'; '.join(wrong)}")


def given(ctx: click.Context, title: str, *sources: ParameterSource) -> dict[str, Any]:
    """The options in force of a command that came from `sources`, by their names in a section."""
    found = {}
    for name, parameter in keys(ctx.command, title).items():
        if not sources or ctx.get_parameter_source(str(parameter.name)) in sources:
            found[name] = ctx.params.get(str(parameter.name))
    return found


def as_toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        huge = isinstance(value, int) and abs(value) >= 1 << 64
        return "a number of more than 64 bits" if huge else str(value)  # nan and inf are TOML's words too
    text = str(value).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


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
    for name, parameter in keys(ctx.command, title).items():
        value = ctx.params.get(str(parameter.name))
        source = ctx.get_parameter_source(str(parameter.name))
        if value is None:
            lines.append(f"# {name} is not set")
        else:
            origin = ORIGINS[source] if source is not None else "the default"
            lines.append(f"{f'{name} = {as_toml(value)}':<40}  # {origin}")
    return "\n".join(lines)
