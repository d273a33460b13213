# SPDX-License-Identifier: Apache-2.0
"""Text in and text out: the package's tokenizer, its chat template, its end tokens, and streaming without broken UTF-8.

Encoding and decoding are the `tokenizers` library's work, templates Jinja's in its sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meadow.machine.errors import DeviceError, ToolMissing, UsageError
from meadow.machine.guard import guard
from meadow.runtime.text.chat_template import Template

REPLACEMENT = "\ufffd"
MARK = "\ue000\ue001"
"""The signs around a mark."""
HOLD_TOKENS = 8
"""A character of UTF-8 spans at most this many tokens; what is still broken after that is really broken."""


class Tokenizer:
    """The tokenizer folder of a package.  Raises ToolMissing without the `tokenizers` library."""

    def __init__(self, folder: Path):
        try:
            import tokenizers
        except ImportError:
            raise ToolMissing("text needs the tokenizers library: pip install 'meadow-fpga[cli]'") from None
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                f"{folder.parent} has no tokenizer, so there is no text: compile from a folder with tokenizer.json, or give token ids to "
                "Session.generate in Python"
            )
        with _guarded(f"{file} is not a tokenizer"):
            self.library = tokenizers.Tokenizer.from_file(str(file))
            self.library.no_padding()  # left in the file by training: they change what a prompt is
            self.library.no_truncation()
        self._plain: Any = None
        self._renderer: Template | None = None
        with guard(folder, DeviceError, "compile the model again"):
            self.settings = _json(folder / "tokenizer_config.json")
            self.template = self._template(folder)
            self.end_tokens = self._end_tokens(folder)

    def encode(self, text: str, control: bool = True) -> list[int]:
        """Token ids, with the beginning-of-text token if the model wants one.

        control  whether special tokens that are written in the text count as such; else they are text like any other
        """
        return self._begun(self._ids([(text, control)]), plain=True)

    def message(self, text: str) -> list[int]:
        """Token ids of a user's message where there is no template: its special tokens are text."""
        return self.encode(text, control=False)

    def conversation(self, messages: list[dict[str, str]], spoken: Mapping[str, list[int]] | None = None) -> list[int]:
        """Token ids of the prompt that the model's chat template makes of `messages`.

        spoken  texts of the assistant whose tokens are known: a model may say a word in other tokens than its tokenizer makes of it
        The template's own control tokens count; those written in a message are text: it cannot end its turn or begin another.
        Raises UsageError for what are no messages, DeviceError where the template edits a message into control tokens.
        """
        check_messages(messages)
        spoken = spoken if spoken and self._is_kept(messages, spoken) else None
        names = sorted(self.control, key=len, reverse=True)  # a longer token first, which a shorter one may begin
        if (
            self.normalizes
        ):  # a message as a whole, since another spelling may become a control token by being normalized
            names = sorted({v for m in messages for k, v in m.items() if k != "role" and v}, key=len, reverse=True)
        used = "".join(str(v) for message in messages for v in message.values()) + (self.template or "")
        said = [m["content"] for m in messages if m["role"] == "assistant" and m["content"] in (spoken or {})]
        made = _marks(used, len(names) + len(said))
        marks = dict(zip(names, made, strict=False))
        back = {mark: name for name, mark in marks.items()}
        known = {mark: (spoken or {})[text] for mark, text in zip(made[len(names) :], said, strict=True)}
        whole_marks = iter(known)

        def marked(text: str) -> str:  # in one pass: a mark is nobody's text
            return re.sub("|".join(map(re.escape, names)), lambda m: marks[m[0]], text) if names else text

        prompt = self.chat(
            [
                {**m, "content": next(whole_marks)}
                if m["role"] == "assistant" and m["content"] in (spoken or {})
                else _each_content([m], marked)[0]
                for m in messages
            ]
        )
        pieces: list[tuple[str, bool] | list[int]] = []
        both = [*back, *known]
        for part in re.split("(" + "|".join(map(re.escape, both)) + ")", prompt) if both else [prompt]:
            if part in known:
                pieces.append(known[part])
            elif part:
                pieces.append((back[part], False) if part in back else (part, True))
        texts = [piece for piece in pieces if isinstance(piece, tuple)]
        ids = self._begun([i for p in pieces for i in (p if isinstance(p, list) else self._ids([p]))])
        others = self._begun(self._ids(texts)) if known else ids
        quiet = [{**m, "content": "x"} if m["content"] in said and m["role"] == "assistant" else m for m in messages]
        whole = "".join(text for text, control in texts if control)
        if any(c in whole and c not in used for c in MARK) or not self._harmless(quiet, others):
            raise DeviceError(
                "the model's chat template makes control tokens of what a message says; use plain completion (--raw)"
            )
        return ids

    def _is_kept(self, messages: list[dict[str, str]], spoken: Mapping[str, list[int]]) -> bool:
        """Whether the template writes what the assistant said as it was said: one that trims or cuts it makes another prompt."""
        said = [m["content"] for m in messages if m["role"] == "assistant" and m["content"] in spoken]
        if not said:
            return False
        marks = dict(
            zip(
                said,
                _marks("".join(v for m in messages for v in m.values()) + (self.template or ""), len(said)),
                strict=True,
            )
        )
        marked = [
            {**m, "content": marks[m["content"]]} if m["role"] == "assistant" and m["content"] in marks else m
            for m in messages
        ]
        prompt = self.chat(marked)
        for text, mark in marks.items():
            prompt = prompt.replace(mark, text)
        return prompt == self.chat(messages)

    def _harmless(self, messages: list[dict[str, str]], ids: list[int]) -> bool:
        """Whether the control tokens are those of messages that could not spell any: templates that cut or replace text may make one."""
        signs = {c for name in self.control for c in name if not c.isalnum() and not c.isspace()}
        if not any(c in signs for m in messages for k, v in m.items() if k != "role" for c in v):
            return True
        plain = self.chat(_each_content(messages, lambda text: "".join("x" if c in signs else c for c in text)))
        control = {self.library.token_to_id(name) for name in self.control - self.unknown}
        wanted = [i for i in self._begun(self._ids([(plain, True)])) if i in control]
        return [i for i in ids if i in control] == wanted

    def _ids(self, pieces: list[tuple[str, bool]]) -> list[int]:
        """Token ids of (text, whether its control tokens count) one after the other."""
        found: list[int] = []
        for text, control in pieces:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UsageError(
                    "the text is not valid UTF-8 (or the terminal's locale is not: LC_ALL=C.UTF-8)"
                ) from None
            with _guarded("the model's tokenizer failed"):
                found += self.library.encode(text, add_special_tokens=False).ids if control else self._text(text)
        return found

    def _text(self, text: str) -> list[int]:
        """Ids of text in which no control token counts."""
        control = {self.library.token_to_id(name) for name in self.control}
        ids: list[int] = self.plain.encode(text, add_special_tokens=False).ids
        if control & set(ids):  # a vocabulary that holds them as ordinary pieces: sign by sign
            ids = [i for sign in text for i in self.plain.encode(sign, add_special_tokens=False).ids]
        return ids

    @property
    def plain(self) -> Any:
        """The tokenizer to which control tokens are text."""
        if self._plain is None:
            whole = json.loads(self.library.to_str())
            whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] not in self.control]
            self._plain = type(self.library).from_str(json.dumps(whole))
            self._plain.encode_special_tokens = True
        return self._plain

    @property
    def control(self) -> set[str]:
        """The texts of special tokens, and of other added tokens that are written like one (<think>, [INST])."""
        tokens = self.library.get_added_tokens_decoder().values()
        return {t.content for t in tokens if t.content and (t.special or re.fullmatch(r"[<\[{|].*[>\]}|]", t.content))}

    @property
    def unknown(self) -> set[str]:
        """What stands for signs that the vocabulary does not have: it says nothing, whoever writes them."""
        named = (_token(self.settings.get("unk_token")), getattr(self.library.model, "unk_token", None))
        return {name for name in named if isinstance(name, str)}

    @property
    def normalizes(self) -> bool:
        """Whether control tokens are looked for in normalized text, so that another spelling may become one."""
        tokens = self.library.get_added_tokens_decoder().values()
        return self.library.normalizer is not None and any(t.content in self.control and t.normalized for t in tokens)

    def _begun(self, ids: list[int], plain: bool = False) -> list[int]:
        """`ids` after the beginning-of-text token, if the model wants one and they do not begin with it.

        plain  text that no template made: the tokenizer's own post-processor says what comes before it where no setting does
        """
        if plain and "add_bos_token" not in self.settings:
            begins = self._post_processed()
            return ids if ids[: len(begins)] == begins else [*begins, *ids]
        if self.settings.get("add_bos_token"):
            begin = self.library.token_to_id(_token(self.settings.get("bos_token")) or "")
            if begin is not None and (not ids or ids[0] != begin):
                return [begin, *ids]
        return ids

    def _post_processed(self) -> list[int]:
        """What the tokenizer's post-processor writes before a text (transformers: add_special_tokens=True)."""
        with _guarded("the model's tokenizer failed"):
            bare = self.library.encode("a", add_special_tokens=False).ids
            whole = self.library.encode("a", add_special_tokens=True).ids
        places = [n for n in range(len(whole) - len(bare) + 1) if whole[n : n + len(bare)] == bare]
        return list(whole[: places[0]]) if places else []

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens left out."""
        with _guarded("the model's tokenizer failed"):
            text: str = self.library.decode(ids, skip_special_tokens=True)
        return text

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the model's chat template makes of `messages`.  Raises DeviceError when the template fails."""
        if self.template is None:
            raise DeviceError("this model has no chat template; use plain completion (--raw)")
        names = {k: _token(self.settings.get(k)) for k in ("bos_token", "eos_token", "pad_token")}
        if self._renderer is None:
            self._renderer = Template(self.template)
        return self._renderer.render(messages, {k: v or "" for k, v in names.items()})

    def _template(self, folder: Path) -> str | None:
        file = folder / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_text()
            except (OSError, UnicodeDecodeError):
                raise DeviceError(f"{file} is not UTF-8 text; compile the model again") from None
        found = self.settings.get("chat_template")
        if isinstance(found, list):  # named templates: the one that is called default
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            found = named.get("default", next(iter(named.values()), None))
        return found if isinstance(found, str) else None

    def _end_tokens(self, folder: Path) -> frozenset[int]:
        """Every id that some file calls the end, and the token that ends a turn of the chat template."""
        found: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _json(folder / name).get("eos_token_id")
            listed = value if isinstance(value, list) else [] if value is None else [value]
            if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in listed):
                raise DeviceError(
                    f"{folder / name}: eos_token_id is {str(value)[:60]}; a token id or a list of them is expected"
                )
            found |= set(listed)
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


@contextmanager
def _guarded(what: str) -> Iterator[None]:
    """The tokenizers library raises plain Exception for what it cannot parse, and panics where a regular expression gives up."""
    try:
        yield
    except Exception as error:
        raise DeviceError(f"{what}: {str(error)[:200]}; compile the model again") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise DeviceError(f"{what}: {str(error)[:200]}; compile the model again") from None


def check_messages(messages: list[dict[str, str]]) -> None:
    """Raise UsageError unless each message has a role and a content, both texts."""
    if not isinstance(messages, list) or not messages:
        raise UsageError("messages are a list of at least one {'role': ..., 'content': ...}")
    for n, message in enumerate(messages):
        fields = message if isinstance(message, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("role", "content")) or not all(
            isinstance(value, str) for value in fields.values()
        ):
            raise UsageError(
                f"message {n} is {str(message)[:60]}; 'role' and 'content' are texts, and so is what stands beside them"
            )


def _each_content(messages: list[dict[str, str]], change: Callable[[str], str]) -> list[dict[str, str]]:
    """The messages with what they say changed, and not who says it."""
    return [{key: value if key == "role" else change(value) for key, value in m.items()} for m in messages]


def _marks(text: str, count: int) -> list[str]:
    """`count` strings that do not occur in `text`: characters of Unicode's private use, which no template looks for."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        mark = f"{MARK[0]}{number}{MARK[1]}"
        if mark not in text:
            found.append(mark)
        number += 1
    return found


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        raise DeviceError(f"{file} is not whole JSON; compile the model again") from None
    return found if isinstance(found, dict) else {}


def _token(value: Any) -> str | None:
    """The text of a token that may be given as a string or as an AddedToken's fields."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
