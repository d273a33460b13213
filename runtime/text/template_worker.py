# SPDX-License-Identifier: Apache-2.0
"""The process in which a model's chat template is rendered: a template comes from anywhere, and this one may be killed.

Run as a script by chat_template.py.  Reads a request as a line of JSON, writes the answer as one.  Memory is bounded here, time by
the caller.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

MEMORY = 1 << 30
"""Bytes of address space: a template that allocates more gets a MemoryError."""
LONGEST = 8 << 20
"""Characters of a prompt."""


def environment() -> Any:
    """Jinja's sandbox with what transformers gives a template."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """What a model said, which training marks: {% generation %} ... {% endgeneration %} is its body here."""

        tags: set[str] = {"generation"}  # noqa: RUF012  as Jinja declares it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    extensions: list[Any] = ["jinja2.ext.loopcontrols", Generation]
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    made.filters["tojson"] = tojson
    return made


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The prompt, or in a word why there is none."""
    try:
        template = environment().from_string(request["template"])
        text = template.render(
            messages=request["messages"], add_generation_prompt=True, tools=None, documents=None, **request["names"]
        )
    except MemoryError:
        return {"error": "needs more memory than any template should"}
    except Exception as error:  # whatever a template does: divide by zero, ask for an attribute of None, recurse
        return {"error": "failed: " + (str(error).splitlines() or [type(error).__name__])[0][:200]}
    if len(text) > LONGEST:
        return {"error": f"makes a prompt of {len(text)} characters"}
    return {"text": text}


def main() -> None:
    environment()  # imports before the bound
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
