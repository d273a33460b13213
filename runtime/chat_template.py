# SPDX-License-Identifier: Apache-2.0
"""Chat templates: Jinja in its sandbox, as transformers renders them, with bounds on time and memory.

A template comes with the model, so from anywhere: it may loop for ever, allocate without bound, or fail in any way.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from meadow.compiler.errors import DeviceError

STEPS = 2_000_000
"""Lines of Python that a template may run: real ones take some thousand."""
LONGEST = 8 << 20
"""Characters of text that a template may make, in all or in one value."""
LARGEST_NUMBER = 1 << 64


class TooMuch(Exception):
    """A template passed a bound."""


def render(template: str, messages: list[dict[str, str]], names: dict[str, str | None]) -> str:
    """The prompt that `template` makes.  Raises DeviceError when it cannot be compiled, fails, or does not end.

    names  bos_token, eos_token and such
    """
    try:
        compiled = _environment().from_string(template)
        return _bounded(
            lambda: _joined(
                compiled.generate(messages=messages, add_generation_prompt=True, tools=None, documents=None, **names)
            )
        )
    except TooMuch as error:
        raise DeviceError(f"the model's chat template {error}; use plain completion (--raw)") from None
    except Exception as error:  # whatever a template does: divide by zero, ask for an attribute of None, recurse
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DeviceError(f"the model's chat template failed: {text}; use plain completion (--raw)") from None


def _environment() -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        """Operators that make long texts or large numbers are looked at first, and not computed while compiling."""

        intercepted_binops = frozenset(("*", "**", "%", "+"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [
                len(v) if isinstance(v, (str, list, tuple)) else abs(v) if isinstance(v, int) else 1
                for v in (left, right)
            ]
            if (operator == "*" and sizes[0] * sizes[1] > LARGEST_NUMBER) or (
                operator == "**" and sizes[1] * sizes[0].bit_length() > 64
            ):
                raise TooMuch("makes a number without bound")
            texts = any(isinstance(v, (str, list, tuple)) for v in (left, right))
            if texts and (
                (operator == "*" and sizes[0] * sizes[1] > LONGEST) or (operator == "+" and sum(sizes) > LONGEST)
            ):
                raise TooMuch("makes a text without bound")
            if operator == "%" and isinstance(left, str):
                raise TooMuch("formats by %, which is not served; use ~")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def small(filter_: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*values: Any, **more: Any) -> Any:
            if any(isinstance(v, int) and abs(v) > LONGEST for v in (*values, *more.values())):
                raise TooMuch("makes a text without bound")
            return filter_(*values, **more)

        return checked

    made = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.globals["raise_exception"] = raise_exception
    made.filters["tojson"] = lambda value, indent=None, **_: json.dumps(value, ensure_ascii=False, indent=indent)
    for name in ("center", "indent", "wordwrap", "truncate", "batch", "slice"):
        plain = made.filters[name]
        if not any(hasattr(plain, mark) for mark in ("jinja_pass_arg",)):
            made.filters[name] = small(plain)
    made.filters.pop("format", None)
    return made


def _joined(pieces: Any) -> str:
    found, length = [], 0
    for piece in pieces:
        found.append(piece)
        length += len(piece)
        if length > LONGEST:
            raise TooMuch("makes a text without bound")
    return "".join(found)


def _bounded(work: Callable[[], str]) -> str:
    """Run `work`, at most STEPS lines of it.  Raises TooMuch."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > STEPS:
            raise TooMuch("does not end")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return work()
    finally:
        sys.settrace(before)
