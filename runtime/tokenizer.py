# SPDX-License-Identifier: Apache-2.0
"""Text in and text out: the package's tokenizer, its chat template, its end tokens, and streaming without broken UTF-8.

Encoding and decoding are the `tokenizers` library's work, templates Jinja's in its sandbox.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meadow.compiler.errors import DeviceError, ToolMissing, UsageError

REPLACEMENT = "\ufffd"
HOLD_TOKENS = 8
"""A character of UTF-8 spans at most this many tokens; what is still broken after that is really broken."""


class Tokenizer:
    """The tokenizer folder of a package.  Raises ToolMissing without the `tokenizers` library."""

    def __init__(self, folder: Path):
        try:
            import tokenizers
        except ImportError:
            raise ToolMissing("text needs the tokenizers library: pip install 'meadow[cli]'") from None
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                f"{folder.parent} has no tokenizer, so there is no text: compile from a folder with tokenizer.json, or give token ids to "
                "Session.generate in Python"
            )
        try:
            self.library = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception for whatever it cannot parse
            raise DeviceError(f"{file} is not a tokenizer: {error}; compile the model again") from None
        self.settings = _json(folder / "tokenizer_config.json")
        self.template = self._template(folder)
        self.end_tokens = self._end_tokens(folder)

    def encode(self, text: str) -> list[int]:
        """Token ids, with the beginning-of-text token if the model wants one."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError("the text is not valid UTF-8 (or the terminal's locale is not: LC_ALL=C.UTF-8)") from None
        ids: list[int] = self.library.encode(text, add_special_tokens=False).ids
        if self.settings.get("add_bos_token"):
            begin = self.library.token_to_id(_token(self.settings.get("bos_token")) or "")
            if begin is not None and (not ids or ids[0] != begin):
                ids = [begin, *ids]
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens left out."""
        text: str = self.library.decode(ids, skip_special_tokens=True)
        return text

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the model's chat template makes of `messages`.  Raises DeviceError when the template fails."""
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.template is None:
            raise DeviceError("this model has no chat template; use plain completion (--raw)")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        names = {k: _token(self.settings.get(k)) for k in ("bos_token", "eos_token", "pad_token")}
        try:
            return environment.from_string(self.template).render(messages=messages, add_generation_prompt=True, **names)
        except TemplateError as error:
            raise DeviceError(f"the model's chat template failed: {error}; use plain completion (--raw)") from None

    def _template(self, folder: Path) -> str | None:
        file = folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text()
        found = self.settings.get("chat_template")
        return found if isinstance(found, str) else None

    def _end_tokens(self, folder: Path) -> frozenset[int]:
        """Every id that some file calls the end, and the token that ends a turn of the chat template."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _json(folder / name).get("eos_token_id")
            found |= {value} if isinstance(value, int) else set(value or ())
        names = [_token(self.settings.get("eos_token")) or ""]
        names += [t for t in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>") if t in (self.template or "")]
        for token in names:
            index = self.library.token_to_id(token)
            if index is not None:
                found.add(index)
        return frozenset(found)


class Streamer:
    """Turns tokens into text as they come, holding back characters that are not whole yet."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = 0

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self.ids.append(token)
        return self._take(final=False)

    def finish(self) -> str:
        """What was held back."""
        return self._take(final=True)

    def _take(self, final: bool) -> str:
        before = self.tokenizer.decode(self.ids[: self.start])
        text = self.tokenizer.decode(self.ids)
        held = len(self.ids) - self.start
        if not final and text.endswith(REPLACEMENT) and held < HOLD_TOKENS:
            return ""
        if not text.startswith(before):  # a decoder that strips at the front: speak of the tail alone
            before = ""
            text = self.tokenizer.decode(self.ids[self.start :])
        if held:
            # Keep a few tokens of context only, so that a long answer does not decode itself again and again.
            self.start = len(self.ids)
            if self.start > 4 * HOLD_TOKENS:
                self.ids = self.ids[-2 * HOLD_TOKENS :]
                self.start = len(self.ids)
        return text[len(before) :]


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError:
        raise DeviceError(f"{file} is not whole JSON; compile the model again") from None
    return found if isinstance(found, dict) else {}


def _token(value: Any) -> str | None:
    """The text of a token that may be given as a string or as an AddedToken's fields."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
