# SPDX-License-Identifier: Apache-2.0
"""What a request may say: the fields of OpenAI's chat and text completions that are answered, with their bounds.

A field that is not known is refused, and so is a value that would be ignored: no client believes that it set something which it did not.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from meadow.runtime.text.sampler import Sampling

MOST_MESSAGES = 4096
MOST_STOPS = 16
MOST_FIELDS = 64
MOST_SAID = 8
"""Problems of a request that are told."""
Text = Annotated[str, Field(max_length=1 << 20)]
Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MOST_STOPS)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Part(Strict):
    """A piece of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(max_length=256)]
    name: Annotated[str, Field(max_length=256)] | None = None

    @property
    def plain(self) -> dict[str, str]:
        """As a chat template takes it; a developer is what used to be called system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        made = {"role": "system" if self.role == "developer" else self.role, "content": text}
        return made if self.name is None else {**made, "name": self.name}


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "default"),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "metadata": ({},),
    "store": (False,),
}
"""Fields that clients send, with the values that change nothing.  Another value is refused."""


class Request(Strict):
    """What both kinds of completion have in common.  Without a temperature the likeliest token is taken, as `meadowc run` does."""

    model: Annotated[str, Field(max_length=256)] = ""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Stops | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=256)] | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def sampling(self) -> Sampling:
        """Its settings; a request by chance that names no seed gets one of its own."""
        seed = secrets.randbits(63) if self.seed is None else self.seed % (1 << 63)
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty, seed)

    @property
    def limit(self) -> int | None:
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are told; None where no probability is."""
        raise NotImplementedError


class ChatRequest(Request):
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def top(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is told only with logprobs: true")
        return self


class TextRequest(Request):
    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """A text, or token ids; a list of one prompt is that prompt.  Said once, however many ids are wrong."""
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
            value = value[0]
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not value:
            raise ValueError("a text or a list of token ids is expected")
        if any(isinstance(v, (str, list)) for v in value):
            raise ValueError(f"there are {len(value)} prompts; one is taken: send a request for each")
        if not all(type(v) is int and v >= 0 for v in value):
            raise ValueError("token ids are whole numbers from 0 on")
        return value

    @property
    def top(self) -> int | None:
        return self.logprobs


class Wrong(ValueError):
    """What is wrong with a request: (field, what is said of it) of everything that is."""

    def __init__(self, problems: list[tuple[str, str]]):
        more = len(problems) - MOST_SAID
        self.problems = problems = problems[:MOST_SAID] + [("", f"and {more} more")] * (more > 0)
        super().__init__("; ".join(dict.fromkeys(f"{field}: {text}" if field else text for field, text in problems)))


R = TypeVar("R", bound=Request)


def parse(kind: type[R], body: bytes) -> R:
    """A request from its JSON.  Raises Wrong with all its problems."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Wrong([("", "the body is not JSON")]) from None
    if not isinstance(found, dict):
        raise Wrong([("", "the body is no object")])
    if len(found) > MOST_FIELDS:
        raise Wrong([("", f"the object has {len(found)} fields; at most {MOST_FIELDS} are read")])
    problems, kept = [], {}
    for name, value in found.items():
        if value is None:
            continue
        if name not in NEUTRAL or name in kind.model_fields:
            kept[name] = value
        elif value not in NEUTRAL[name]:
            allowed = " or ".join(json.dumps(v) for v in NEUTRAL[name])
            problems.append((name, f"{json.dumps(value)[:80]} is asked for; this server takes {allowed} alone"))
    try:
        made = kind.model_validate(kept)
    except ValidationError as error:
        problems += [_said(one) for one in error.errors(include_url=False, include_context=False)]
    except RecursionError:
        problems.append(("", "the body is nested too deeply"))
    if problems:
        raise Wrong(problems)
    return made


def _said(one: Any) -> tuple[str, str]:
    """The field of an error of pydantic, without the branches that it tried, and what it says."""
    parts = [str(p) for p in one["loc"] if isinstance(p, int) or re.fullmatch(r"[a-z_]+", str(p))]
    if one["type"] == "extra_forbidden":
        return ".".join(parts), "this server does not know that field"
    return ".".join(parts), str(one["msg"]).removeprefix("Value error, ")
