# SPDX-License-Identifier: Apache-2.0
"""Dialogue: text in and text out, of a session whose tokens session.py runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from meadow.machine.errors import UsageError
from meadow.machine.package.read import Package
from meadow.runtime.answer import Answer
from meadow.runtime.drafts import Drafts, drafts_by_name
from meadow.runtime.text.sampler import Logits, Sampler, Sampling
from meadow.runtime.text.tokenizer import Tokenizer
from meadow.runtime.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from meadow.runtime.session import Session


MOST_LOGPROBS = 100


class Dialogue:
    """The text half of a Session, which is the other."""

    def __init__(self, package: Package):
        self.package = package
        self.spoken: dict[str, list[int]] = {}
        """Answers of this session and their tokens, the last ones."""
        self._tokenizer: Tokenizer | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether the package holds a tokenizer."""
        return (self.package.folder / "tokenizer" / "tokenizer.json").is_file()

    @property
    def tokenizer(self) -> Tokenizer:
        """The package's tokenizer; ToolMissing or UsageError when there is none."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self.package.folder / "tokenizer")
        return self._tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """Which text each token stands for."""
        return Vocabulary.of(self.tokenizer if self.has_tokenizer else None, int(self.package.model["vocab"]))

    def prompt(self, text: str, raw: bool = False) -> list[int]:
        """Token ids of `text` as a user's message by the chat template; as it is where there is none.

        raw  no template: plain completion, and special tokens that are written in `text` count as such
        """
        if raw:
            return self.tokenizer.encode(text)
        if self.tokenizer.template is None:
            return self.tokenizer.message(text)
        return self.tokenizer.conversation([{"role": "user", "content": text}])

    def answer(
        self,
        prompt: str | list[int],
        max_new_tokens: int = 64,
        raw: bool = False,
        choose: Callable[[Logits], int] | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        ahead: bool | None = False,
        drafts: Drafts | str | None = None,
        **sampling: Any,
    ) -> Answer:
        """The answer to a prompt, or to token ids, in a new conversation: text as it comes, tokens, why it ended.

        raw       no template: plain completion
        choose    in place of settings: how the next token is chosen from its logits
        stop      texts at which the answer ends; they are left out
        logprobs  how many of the likeliest tokens are told of each place; None: none, and no probability
        ahead     True: the engine goes from token to token by itself, where package and device can, and there is no digest of logits;
                  None: also where the settings leave the choice to the host, which then makes it; False: the host chooses every token
        drafts    propose tokens, several of which one run verifies: "lookup", or any of runtime.drafts; the same answer, with any settings
        sampling  temperature, top_k, top_p, min_p, repeat_penalty, seed (runtime.text.sampler.Sampling)
        Raises UsageError for settings out of range.
        """
        if choose is not None and sampling:
            raise UsageError(f"choose already says how tokens are chosen; drop {', '.join(sampling)}")
        unknown = sampling.keys() - {field.name for field in fields(Sampling)}
        if unknown:
            raise UsageError(
                f"{', '.join(sorted(unknown))}: not known; {', '.join(f.name for f in fields(Sampling))} are"
            )
        if logprobs is not None and not (type(logprobs) is int and 0 <= logprobs <= MOST_LOGPROBS):
            raise UsageError(f"logprobs is {logprobs!r}; None, or 0 to {MOST_LOGPROBS}")
        if not isinstance(prompt, (str, list)):
            raise UsageError(f"the prompt is a {type(prompt).__name__}; a text or a list of token ids is expected")
        pick = choose if choose is not None else Sampler(Sampling(**sampling))
        tokens = self.prompt(prompt, raw) if isinstance(prompt, str) else prompt
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        greedy = isinstance(pick, Sampler) and pick.sampling.takes_likeliest and logprobs is None
        if isinstance(drafts, str):
            drafts = drafts_by_name(drafts, self.package)
        if ahead and drafts is not None:
            raise UsageError(
                "ahead=True lets the engine go on by itself, and drafts are the host's to verify; drop one"
            )
        if ahead and not greedy:
            raise UsageError(
                "ahead=True lets the engine choose the likeliest token; choose, logprobs, a temperature and a repeat penalty are the host's"
            )
        me, ends = cast("Session", self), self.tokenizer.end_tokens
        goes_ahead = greedy and ahead is not False and drafts is None
        return Answer(me, tokens, max_new_tokens, pick, stops, logprobs, ends, goes_ahead, drafts)

    def chat(self, messages: list[dict[str, str]] | str, max_new_tokens: int = 256, **how: Any) -> Answer:
        """The answer to a conversation: messages of "role" and "content", or the text of one user.  What the cache holds of it already
        is not computed again.

        how  as of answer()
        """
        listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.answer(self.tokenizer.conversation(listed, self.spoken), max_new_tokens, **how)

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 64,
        raw: bool = False,
        choose: Callable[[Logits], int] | None = None,
        **how: Any,
    ) -> Iterator[str]:
        """Text as it comes, a new conversation.  Stopping the iteration stops the device between two tokens.

        how  as of answer()
        """
        yield from self.answer(prompt, max_new_tokens, raw, choose, **how)
