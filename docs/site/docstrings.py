# SPDX-License-Identifier: Apache-2.0
"""An extension of griffe: in docstrings, lines of a name, two spaces and its meaning become a list, and what is raised a paragraph."""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMED = re.compile(r"^(\s*)([\w*][\w, *]*?) {2,}(\S.*)$")


def listed(text: str) -> str:
    """The docstring as Markdown."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        found = NAMED.match(line)
        if found:
            lines += ([] if inside else [""]) + [f"- `{found[2]}`: {found[3]}"]
            inside = True
        elif inside and line.startswith(" ") and line.strip():
            lines.append(f"  {line.strip()}")
        else:
            lines += ([""] if inside and line.strip() or line.startswith("Raises ") else []) + [line]
            inside = False
    return "\n".join(lines)


class Lists(griffe.Extension):
    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
